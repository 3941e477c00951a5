from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.plan import image_requests, plan_comparisons, plan_requests
from ppd.evaluation.tables import IMAGE_KEY
from ppd.evaluation.win_rates import win_rates
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings
from ppd.simulation.truth.utility import Tastes, compare, judge
from ppd.simulation.world import FEATURES, sample_features

SETTINGS = EvaluationSettings(n_unseen_users=6, n_seen_users=8, captions_per_user=4, n_seeds=5)


def looks_of(requests: pd.DataFrame, tastes: Tastes, strength: float) -> pd.DataFrame:
    """What a reader would see if ppd moved every picture by `strength` along the person's taste."""
    rng = np.random.default_rng(0)
    noise: dict[tuple[str, int], np.ndarray] = {}
    rows = []
    for model in ("base", "dpo", "sft", "ppd"):
        for user_id, caption, seed in image_requests(requests, model, SETTINGS).itertuples(index=False, name=None):
            start = noise.setdefault((caption, seed), sample_features(rng, 1)[0])
            shift = strength * tastes.of([user_id])[0] if model == "ppd" else 0.0
            rows.append((model, user_id, caption, seed, *(start + shift)))
    return pd.DataFrame(rows, columns=[*IMAGE_KEY, *FEATURES]).set_index(IMAGE_KEY)


@pytest.fixture(scope="module")
def requests(simulated: Path) -> pd.DataFrame:
    return plan_requests(Preferences.open(simulated / "preferences"), SETTINGS)


def rates(requests: pd.DataFrame, simulated: Path, strength: float) -> dict[tuple[str, str, str], dict]:
    tastes = Tastes.load(simulated / "truth")
    verdicts = judge(plan_comparisons(requests, SETTINGS), looks_of(requests, tastes, strength), tastes)
    unseen = [r for r in win_rates(verdicts) if r["users"] == "unseen"]
    return {(str(r["method"]), str(r["opponent"]), str(r["pairing"])): r for r in unseen}


def test_a_model_that_moves_towards_the_person_wins_more_the_further_it_moves(
    requests: pd.DataFrame, simulated: Path
) -> None:
    little, much = rates(requests, simulated, 0.05), rates(requests, simulated, 1.0)
    key = ("ppd", "base", "same-seed")
    assert little[key]["win_rate"] == 1, "with the same seed any shift wins"
    assert little[key]["gain_sd"] < 0.3 < much[key]["gain_sd"]
    independent = ("ppd", "base", "independent")
    assert little[independent]["win_rate"] < 0.7 < 0.85 < much[independent]["win_rate"]
    assert much["ppd", "ppd-shuffled", "independent"]["win_rate"] > 0.7


def test_a_model_that_does_nothing_ties(requests: pd.DataFrame, simulated: Path) -> None:
    for key, rate in rates(requests, simulated, 0.0).items():
        if key[2] == "same-seed":
            assert rate["win_rate"] == 0.5
            assert rate["gain_sd"] == 0


def test_outcomes() -> None:
    worth = np.array([1.0, 2, 3])
    verdicts = compare(pd.DataFrame({"user_id": list("abc")}), worth, np.array([2.0, 2, 2]), np.full(3, 2.0))
    np.testing.assert_array_equal(verdicts.outcome, [0, 0.5, 1])
    np.testing.assert_array_equal(verdicts.gain_sd, [-0.5, 0, 0.5])
