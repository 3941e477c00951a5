import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.win_rates import paired_differences, win_rates
from ppd.statistics.bootstrap import clustered_mean


def test_win_rates_are_grouped_and_ties_count_half() -> None:
    rows = pd.DataFrame(
        {
            "method": "ppd",
            "opponent": ["base"] * 4 + ["dpo"] * 2,
            "users": "unseen",
            "judge": ["ground-truth"] * 4 + ["vlm"] * 2,
            "pairing": "independent",
            "user_id": ["a", "a", "b", "b", "a", "b"],
            "caption": ["x", "y", "x", "y", "x", "x"],
            "outcome": [1, 0.5, 1, 0, 1, 1],
            "gain_sd": [1.0, 0.0, 2.0, -1.0, np.nan, np.nan],
        }
    )
    base, dpo = win_rates(rows)
    assert base["win_rate"] == pytest.approx(0.625)
    assert base["n_comparisons"] == 4
    assert base["n_users"] == 2
    assert base["gain_sd"] == pytest.approx(0.5)
    assert dpo["opponent"] == "dpo"
    assert dpo["win_rate"] == 1
    assert dpo["gain_sd"] is None


def test_trainings_that_differ_widen_the_interval() -> None:
    users, captions, seeds = (index.ravel() for index in np.indices((30, 5, 3)))
    rows = pd.DataFrame({"user_id": users, "caption": captions, "training_seed": seeds, "gain_sd": np.nan})
    rows = rows.assign(method="ppd", opponent="base", users="unseen", judge="vlm", pairing="independent")
    (alike,) = win_rates(rows.assign(outcome=(users % 2).astype(float)))
    (differing,) = win_rates(rows.assign(outcome=np.where(seeds == 0, 1.0, users % 2)))
    assert differing["ci_high"] - differing["ci_low"] > 1.5 * (alike["ci_high"] - alike["ci_low"])
    (fixed,) = win_rates(rows.assign(outcome=np.where(seeds == 0, 1.0, users % 2)).drop(columns="training_seed"))
    assert fixed["ci_high"] - fixed["ci_low"] < 0.7 * (differing["ci_high"] - differing["ci_low"])


def test_a_paired_difference_cancels_what_both_share() -> None:
    """Hard and easy people move both methods alike: the difference is known far better than either rate."""
    rng = np.random.default_rng(0)
    ease = np.repeat(rng.random(40), 8)
    keys = {"opponent": "base", "users": "unseen", "judge": "ground-truth", "pairing": "independent"}
    keys |= {"user_id": np.repeat(np.arange(40), 8), "caption": np.tile(list("abcdefgh"), 40)}
    keys |= {"method_seed": 0, "opponent_seed": 1}
    dpo = pd.DataFrame({**keys, "method": "dpo", "outcome": ease})
    ppd = pd.DataFrame({**keys, "method": "ppd", "outcome": ease + 0.1})
    gone = ppd.iloc[::-1].iloc[:-3]  # another order, and some that only one of them has
    (name, difference), *_ = paired_differences(pd.concat([dpo, gone])).items()
    assert name == "ppd-dpo.unseen.ground-truth"
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-6
    assert clustered_mean(ease, keys["user_id"]).high - clustered_mean(ease, keys["user_id"]).low > 0.1
