"""Verdicts of people: what visitors of the studio judged blind, as comparisons like any other judge's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ppd.errors import InputError
from ppd.evaluation.tables import COMPARISONS, VERDICT, with_columns
from ppd.files import content_name
from ppd.layout import Layout
from ppd.preferences.store import Preferences

PEOPLE = "people"
"""The judge of these rows."""
_FIELDS = ("user_id", "caption", "method", "opponent", "pairing", "method_seed", "opponent_seed", "outcome", "adapter")


def human_verdicts(layout: Layout, preferences: Preferences) -> pd.DataFrame:
    """`tables.COMPARISONS` with `tables.VERDICT`: what was said of the adapter at hand, if anything was.

    A visitor with whose choices it was trained counts as seen. Raises InputError for a line that is no verdict.
    """
    rows = _rows(layout.human_verdicts)
    if not rows:
        return pd.DataFrame(columns=[*COMPARISONS, *VERDICT])
    table = pd.DataFrame(rows)
    table = table[table.adapter == content_name(layout.models / "ppd" / "adapter.safetensors")]
    trained = preferences.users.user_id[preferences.users.split == "train"]
    table = table.assign(
        users=np.where(table.user_id.isin(trained), "seen", "unseen"),
        method_user=table.user_id,
        opponent_model=table.opponent.replace("ppd-shuffled", "ppd"),
        opponent_user="",
        first_of_pairing=True,
        judge=PEOPLE,
        gain_sd=np.nan,
    )
    return with_columns(table, [*COMPARISONS, *VERDICT]).reset_index(drop=True)


def _rows(file: Path) -> list[dict[str, object]]:
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
            rows.append({field: row[field] for field in _FIELDS})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"no verdict: {error!r}", file=file, row=number) from error
        if row["outcome"] not in (0, 0.5, 1):
            raise InputError(f"{row['outcome']!r}; expected 0, 0.5 or 1", file=file, row=number, column="outcome")
    return rows
