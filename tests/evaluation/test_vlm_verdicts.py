"""A judge that may say nothing: what has no verdict counts nowhere but in its own share."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.metrics import judge_metrics
from ppd.evaluation.plots import win_rate_plot
from ppd.evaluation.vlm_verdicts import judge_choices, judge_comparisons
from ppd.evaluation.win_rates import headline, paired_differences, win_rates
from ppd.preferences.store import Preferences
from ppd.vlm.judging import Answer, Verdict

FIRST, SECOND, VOID = (Answer("asked", said, said, math.nan) for said in ("first", "second", "void"))
VERDICTS = {
    "a": Verdict(FIRST, SECOND),
    "b": Verdict(SECOND, FIRST),
    "tie": Verdict(FIRST, FIRST),
    "void": Verdict(FIRST, VOID),
}


@pytest.fixture
def judged() -> pd.DataFrame:
    """Four meetings of one person, with one verdict of each kind."""
    n = len(VERDICTS)
    comparisons = pd.DataFrame(
        {
            "user_id": ["ann"] * (n + 1),
            "caption": ["a fox"] * (n + 1),
            "pairing": ["independent"] * n + ["same-seed"],
            "first_of_pairing": [True] * (n + 1),
            "method": ["ppd"] * (n + 1),
            "method_user": ["ann"] * (n + 1),
            "method_seed": range(n + 1),
            "opponent_model": ["base"] * (n + 1),
            "opponent": ["base"] * (n + 1),
            "opponent_user": [""] * (n + 1),
            "opponent_seed": range(n + 1),
        }
    )
    drawn = {key: b"png" for seed in range(n) for key in (("ppd", "ann", "a fox", seed), ("base", "", "a fox", seed))}
    return judge_comparisons(comparisons, drawn, {"ann": ()}, lambda pairs, candidates: list(VERDICTS.values()))


def test_a_void_verdict_is_no_tie(judged):
    assert judged.outcome.tolist()[:3] == [1.0, 0.0, 0.5]
    assert np.isnan(judged.outcome[3])
    assert judged.consistent.tolist() == [True, True, False, False]
    assert judged.said_swapped.tolist() == ["second", "first", "first", "void"]


def test_metrics_of_the_judge_leave_out_what_it_did_not_say(judged):
    choices = judged.rename(columns={"outcome": "correct"})
    metrics = judge_metrics(choices, judged)
    assert metrics["judge.accuracy"] == 0.5
    assert metrics["judge.void.choices"] == metrics["judge.void.verdicts"] == 0.25
    assert metrics["judge.consistency.verdicts"] == pytest.approx(2 / 3)
    assert "judge.accuracy_of_mean_probability" not in metrics, "a server tells no probabilities"
    sure = judge_metrics(choices.assign(p_a=[0.9, 0.2, 0.6, np.nan]), judged)
    assert sure["judge.accuracy_of_mean_probability"] == pytest.approx(2 / 3)


def test_a_judge_that_said_nothing_has_no_accuracy(judged):
    nothing = judged.assign(outcome=np.nan, correct=np.nan)
    assert judge_metrics(nothing, nothing) == {"judge.void.choices": 1.0, "judge.void.verdicts": 1.0}


def test_an_evaluation_in_which_nothing_was_said_has_no_win_rates_and_still_a_plot(judged):
    compared = judged.assign(outcome=np.nan, users="unseen")
    assert win_rates(compared) == []
    assert paired_differences(compared) == {}
    assert headline([]) is None
    assert win_rate_plot([]).startswith(b"\x89PNG")


def test_a_win_rate_leaves_out_what_has_no_verdict(judged):
    (entry,) = win_rates(judged.assign(users="unseen"))
    assert (entry["n_comparisons"], entry["win_rate"]) == (3, 0.5)


def test_with_nothing_to_judge_the_tables_are_empty_and_have_their_columns(judged, tmp_path):
    meetings = judged.iloc[:0].assign(first_of_pairing=True)
    empty = judge_comparisons(meetings, {}, {}, lambda pairs, candidates: [])
    assert empty.empty
    assert set(judged.columns) <= set(empty.columns)
    pairs = pd.DataFrame({"user_id": ["ann"], "caption": ["a fox"], "pair_id": ["p"], "role": ["train"]})
    choices = judge_choices(SimpleNamespace(pairs=pairs), ["ann"], {}, lambda pairs, candidates: [])
    assert choices.empty
    assert judge_metrics(choices, empty) == {}
    for name, table in (("vlm", empty), ("judge", choices)):
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
    again = pd.read_parquet(tmp_path / "vlm.parquet")
    assert pd.concat([again, judged], ignore_index=True).outcome.dtype == float


def test_without_a_held_out_choice_the_judge_is_not_measured_and_nothing_stops(judged, tmp_path):
    pairs = pd.DataFrame({"pair_id": [1], "user_id": ["ann"], "caption": ["a fox"], "role": ["train"]})
    preferences = Preferences(tmp_path, pairs, pd.DataFrame(), pd.DataFrame())
    choices = judge_choices(preferences, ["ann"], {"ann": ()}, lambda pairs, candidates: pytest.fail("nothing to ask"))
    assert len(choices) == 0
    choices.to_parquet(tmp_path / "judge.parquet")
    metrics = judge_metrics(pd.read_parquet(tmp_path / "judge.parquet"), judged)
    assert not [name for name in metrics if "accuracy" in name or "choices" in name]
    assert not any(math.isnan(value) for value in metrics.values())
