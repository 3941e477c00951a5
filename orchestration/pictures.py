"""Pictures and tables as markdown, the only form in which the Dagster UI shows them. Drawn without torch."""

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from ppd.evaluation.plots import ACCENT, METHOD_COLOURS, QUIET, png, strip
from ppd.preferences.images import open_rgb

SPLIT_COLOURS = {"train": METHOD_COLOURS["dpo"], "validation": METHOD_COLOURS["sft"], "test": ACCENT}

DIALOG_PX = 720
THUMBNAIL_PX = 64


class Markdown(str):
    """Text that is markdown already; everything else is escaped before it gets into a table."""

    __slots__ = ()


_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")  # within a word _ marks nothing


def plain(text: object) -> Markdown:
    """Captions, names and profiles as they are read: no mark in them becomes a table, a link or a picture."""
    if isinstance(text, Markdown):
        return text
    return Markdown(html.escape(_MARKS.sub(r"\\\g<0>", " ".join(str(text).split())), quote=False))


def picture(drawn: bytes) -> Markdown:
    """A PNG inside markdown, no wider than the dialog that shows it, in at most 128 colours: a third of the weight."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(drawn)).convert("RGB")
    image.thumbnail((DIALOG_PX, image.height), Image.Resampling.LANCZOS)
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return Markdown(f"![](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def table(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Rows of the same columns as a markdown table; "nothing" when there are none."""
    if not rows:
        return "nothing"
    lines = [list(rows[0]), [Markdown("---")] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def images(encoded: Iterable[bytes]) -> Markdown:
    """Encoded images in a row, as thumbnails."""
    opened = (open_rgb(each) for each in encoded)
    pixels = [np.asarray(ImageOps.pad(image, (THUMBNAIL_PX, THUMBNAIL_PX), color="white")) for image in opened]
    return picture(strip(pixels, columns=len(pixels), scale=1)) if pixels else Markdown("nothing")


def trend_plot(points: pd.DataFrame, changes: Mapping[str, Sequence[str]]) -> bytes:
    """Win rates against dates with their intervals, a line a judge; a mark where something else than time changed.

    points: rows of date, judge, win_rate, ci_low, ci_high. changes: date -> what differs from the date before.
    """
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    for colour, (judge, rows) in zip((ACCENT, METHOD_COLOURS["dpo"]), points.groupby("judge"), strict=False):
        spread = [rows.win_rate - rows.ci_low, rows.ci_high - rows.win_rate]
        axes.errorbar(
            pd.to_datetime(rows.date), rows.win_rate, spread, color=colour, marker="o", capsize=3, label=judge
        )
    for date, names in changes.items():
        at = pd.Timestamp(date).timestamp() / 86400  # matplotlib counts days
        axes.axvline(at, color=QUIET, linewidth=1, linestyle=":")
        axes.annotate(
            ", ".join(names),
            (at, 0.98),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=6,
            color=QUIET,
            rotation=90,
            va="top",
        )
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle="--")
    axes.set(ylabel="win rate over base, unseen users", ylim=(0.3, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    if points.date.nunique() == 1:  # by itself the axis would show four years around it
        at = pd.Timestamp(points.date.iloc[0]).timestamp() / 86400
        axes.set_xlim(at - 1, at + 1)
    figure.autofmt_xdate()
    return png(figure)
