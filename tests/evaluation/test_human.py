"""Blind verdicts of visitors as a judge's rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ppd.errors import InputError
from ppd.evaluation.human import human_verdicts
from ppd.evaluation.tables import COMPARISONS, VERDICT
from ppd.evaluation.win_rates import win_rates
from ppd.files import content_name
from ppd.layout import Layout
from ppd.preferences.store import Preferences


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An adapter that the verdicts may be about."""
    made = Layout(tmp_path)
    (made.models / "ppd").mkdir(parents=True)
    (made.models / "ppd" / "adapter.safetensors").write_bytes(b"weights")
    made.human_verdicts.parent.mkdir()
    return made


@pytest.fixture
def preferences(tmp_path: Path) -> Preferences:
    """One visitor has been trained with since."""
    users = pd.DataFrame({"user_id": ["ann", "ben"], "split": ["train", "test"]})
    return Preferences(tmp_path, pd.DataFrame(), users, pd.DataFrame())


def verdict(layout: Layout, **changes: Any) -> dict[str, Any]:
    return {
        "user_id": "cleo",
        "caption": "a sticker of a fox",
        "method": "ppd",
        "opponent": "base",
        "pairing": "independent",
        "method_seed": 1,
        "opponent_seed": 2,
        "outcome": 1.0,
        "adapter": content_name(layout.models / "ppd" / "adapter.safetensors"),
    } | changes


def write(layout: Layout, *rows: dict[str, Any]) -> None:
    layout.human_verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_verdicts_on_this_adapter_become_win_rates_judged_by_people(layout: Layout, preferences: Preferences) -> None:
    rows = [verdict(layout, user_id=user, outcome=o) for user, o in (("cleo", 1.0), ("cleo", 0.5), ("dan", 0.0))]
    rows.append(verdict(layout, user_id="ann", opponent="ppd-shuffled"))
    rows.append(verdict(layout, adapter="another", outcome=0.0))
    write(layout, *rows)
    table = human_verdicts(layout, preferences)
    assert list(table) == [*COMPARISONS, *VERDICT]
    unseen, seen = win_rates(table)
    assert (unseen["judge"], unseen["users"], unseen["n_users"], unseen["n_comparisons"]) == ("people", "unseen", 2, 3)
    assert unseen["win_rate"] == pytest.approx(0.5)
    assert (seen["users"], seen["opponent"]) == ("seen", "ppd-shuffled")
    assert unseen["gain_sd"] is None


@pytest.mark.parametrize("lines", [None, ""])
def test_without_verdicts_there_are_none(layout: Layout, preferences: Preferences, lines: str | None) -> None:
    if lines is not None:
        layout.human_verdicts.write_text(lines)
    assert len(human_verdicts(layout, preferences)) == 0


def test_verdicts_on_another_adapter_alone_are_none(layout: Layout, preferences: Preferences) -> None:
    write(layout, verdict(layout, adapter="another"))
    assert win_rates(human_verdicts(layout, preferences)) == []


@pytest.mark.parametrize("line", ["{", "[1]", "7", '{"user_id": "ann"}'])
def test_a_line_that_is_no_verdict_is_named(layout: Layout, preferences: Preferences, line: str) -> None:
    layout.human_verdicts.write_text(json.dumps(verdict(layout)) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"human\.jsonl, row 1"):
        human_verdicts(layout, preferences)


def test_an_outcome_that_is_none_is_named(layout: Layout, preferences: Preferences) -> None:
    write(layout, verdict(layout, outcome=3))
    with pytest.raises(InputError, match="expected 0, 0.5 or 1"):
        human_verdicts(layout, preferences)
