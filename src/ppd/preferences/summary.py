"""What a person looks at after ingestion: what came in, what was refused, and what people chose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ppd.files import atomic_path
from ppd.preferences.splits import ROLES
from ppd.preferences.store import Preferences

_THUMBNAIL_PX, _GAP_PX, _LABEL_PX = 72, 4, 22
_COLUMNS, _ROWS = 6, 3
_TITLE = 36  # characters of a user's name that fit
_CHOSEN, _REJECTED, _INK, _PAPER = "#2e8b57", "#c0392b", "#222222", "#ffffff"


def summarise(folder: Path, picture: Path | None = None, n_users: int = 6) -> Group:
    """Tables for `rich` to print about the preferences in `folder`; with `picture`, contact sheets as a PNG there.

    The sheets show, for the `n_users` with most pairs, up to 18 chosen images beside the 18 rejected ones.
    Raises `InputError` when `folder` holds no preferences.
    """
    preferences = Preferences.open(folder)
    summary = json.loads((folder / "summary.json").read_text())
    if picture is not None:
        with atomic_path(picture) as path:
            contact_sheet(preferences, n_users).save(path, format="PNG")
    return Group(_counts(summary), _users(preferences), _refusals(folder, summary))


def contact_sheet(preferences: Preferences, n_users: int) -> Image.Image:
    """One band a person: what they chose on the left, what they rejected on the right, pair by pair."""
    people = preferences.users.sort_values(["n_pairs", "user_id"], ascending=[False, True]).head(n_users)
    bands = [_band(preferences, user_id) for user_id in people["user_id"].tolist()]
    sheet = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)), _PAPER)
    for at, band in enumerate(bands):
        sheet.paste(band, (0, at * band.height))
    return sheet


def _band(preferences: Preferences, user_id: str) -> Image.Image:
    pairs = preferences.pairs[preferences.pairs["user_id"] == user_id]
    shown = pairs.drop_duplicates("chosen_uid").head(_COLUMNS * _ROWS)
    cell = _THUMBNAIL_PX + _GAP_PX
    half = _COLUMNS * cell + 3 * _GAP_PX
    band = Image.new("RGB", (2 * half + _GAP_PX, _LABEL_PX + _ROWS * cell + 4 * _GAP_PX), _PAPER)
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(size=13)
    sides = ((0, "chosen_uid", "chosen", _CHOSEN), (half + _GAP_PX, "rejected_uid", "rejected", _REJECTED))
    for left, column, word, colour in sides:
        title = f"user {user_id[:_TITLE]} ({len(pairs)} pairs): {word}"
        draw.text((left + 2 * _GAP_PX, _GAP_PX), title, _INK, font)
        box = (left, _LABEL_PX, left + half - 1, band.height - 2 * _GAP_PX)
        draw.rectangle(box, outline=colour, width=2)
        for at, image in enumerate(preferences.images(shown[column].tolist())):
            row, place = divmod(at, _COLUMNS)
            corner = (left + 2 * _GAP_PX + place * cell, _LABEL_PX + 2 * _GAP_PX + row * cell)
            band.paste(ImageOps.pad(image, (_THUMBNAIL_PX, _THUMBNAIL_PX), color=_PAPER), corner)
    return band


def _counts(summary: dict[str, Any]) -> Table:
    table = Table("", "count", title="What came of the log")
    table.columns[1].justify = "right"
    table.add_row("rows read", f"{summary['n_rows']:,}")
    for reason, n in summary["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{n:,}")
    table.add_row("  refused", f"{sum(summary['refused'].values()):,}")
    table.add_row("pairs", f"{summary['n_pairs']:,}", style="bold")
    for role in ROLES:
        table.add_row(f"  {role}", f"{summary['roles'].get(role, 0):,}")
    table.add_row("images", f"{summary['n_images']:,}")
    table.add_row("captions", f"{summary['n_captions']:,}")
    for split, n in summary["captions"].items():
        table.add_row(f"  {split}", f"{n:,}")
    return table


def _users(preferences: Preferences) -> Table:
    table = Table("split", "users", "pairs", "min", "median", "max", "support groups", title="Users, pairs per user")
    for column in table.columns[1:]:
        column.justify = "right"
    for split in ("train", "validation", "test"):
        users = preferences.users[preferences.users["split"] == split]
        n_pairs = users["n_pairs"].to_numpy()
        spread = [f"{value:g}" for value in np.quantile(n_pairs, [0, 0.5, 1])] if len(users) else ["–"] * 3
        table.add_row(split, f"{len(users):,}", f"{n_pairs.sum():,}", *spread, f"{users['n_support_groups'].sum():,}")
    return table


def _refusals(folder: Path, summary: dict[str, Any]) -> Table:
    table = Table("reason", "rows", "the first", title="Refused (all of them in refused.parquet)")
    table.columns[1].justify = "right"
    first = pd.read_parquet(folder / "refused.parquet").drop_duplicates("reason").set_index("reason")
    for reason, n in sorted(summary["refused"].items(), key=lambda item: -item[1]):
        example = first.loc[reason]
        table.add_row(reason, f"{n:,}", _printable(f"{example['file']} row {example['row']}: {example['detail']}"))
    return table


def _printable(text: str) -> str:
    """Text of a log for `rich`: no brackets of it are markup, and nothing of it steers the terminal."""
    return escape("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))
