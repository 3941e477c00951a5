import numpy as np
import pandas as pd
import pytest
import torch

from ppd.evaluation.win_rates import paired_differences, win_rates
from ppd.simulation.truth.utility import outcome
from ppd.statistics.bootstrap import clustered_mean
from ppd.statistics.precision import precision


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """People differ, and answers of one person agree: an interval over single answers would cover far less."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        person = rng.beta(3, 2, size=40)
        answers = (rng.random((40, 12)) < person[:, None]).astype(float).ravel()
        interval = clustered_mean(answers, np.repeat(np.arange(40), 12), seed=trial)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_answers_of_one_person_count_as_one_witness() -> None:
    one_voice = clustered_mean(np.repeat([1.0, 0.0], 100), np.repeat([0, 1], 100))
    assert one_voice.low == 0
    assert one_voice.high == 1
    user_index = clustered_mean(np.repeat([1.0, 0.0], 100), np.arange(200))
    assert user_index.high - user_index.low < 0.2


def test_win_rates_are_grouped_and_ties_count_half() -> None:
    rows = pd.DataFrame(
        {
            "method": "ppd",
            "opponent": ["base"] * 4 + ["dpo"] * 2,
            "users": "unseen",
            "judge": ["ground-truth"] * 4 + ["vlm"] * 2,
            "pairing": "independent",
            "user_id": ["a", "a", "b", "b", "a", "b"],
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


def test_outcomes() -> None:
    np.testing.assert_array_equal(outcome(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])), [0, 0.5, 1])


def test_precision_tells_near_from_far() -> None:
    torch.manual_seed(0)
    real = torch.randn(200, 4)
    assert precision(real + 0.01, real) > 0.95
    assert precision(real + 100, real) == 0
    assert precision(torch.cat([real, real + 100]), real) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="neighbour"):
        precision(real, real[:3])


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
