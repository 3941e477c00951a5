from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.plan import image_requests, plan_comparisons, plan_requests
from ppd.evaluation.tables import IMAGE_KEY
from ppd.evaluation.win_rates import CEILING
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, PeopleSettings
from ppd.simulation.truth.best_pick import judge_best_picks
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.world import FEATURES, sample_features

SETTINGS = EvaluationSettings(n_unseen_users=6, n_seen_users=16, captions_per_user=4, n_seeds=5)


@pytest.fixture(scope="module")
def preferences(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


@pytest.fixture(scope="module")
def requests(preferences: Preferences) -> pd.DataFrame:
    return plan_requests(preferences, SETTINGS)


@pytest.fixture(scope="module")
def base(requests: pd.DataFrame) -> pd.DataFrame:
    """What a reader would see in a base that draws the world's own looks."""
    wanted = image_requests(requests, "base", SETTINGS).assign(model="base")
    looks = sample_features(np.random.default_rng(0), len(wanted))
    return wanted.assign(**dict(zip(FEATURES, looks.T, strict=True))).set_index(IMAGE_KEY)


def inferred(preferences: Preferences, truth: Path) -> Tastes:
    observer = ExactObserver(truth, PeopleSettings())
    return observer.tastes(observer.beliefs(support_pairs(preferences, preferences.users.user_id.tolist(), 4)))


def win_rate(requests: pd.DataFrame, base: pd.DataFrame, tastes: Tastes, believed: Tastes) -> float:
    verdicts = judge_best_picks(plan_comparisons(requests, SETTINGS), base, tastes, believed)
    assert set(verdicts.method) == {CEILING}
    assert set(verdicts.pairing) == {"independent"}
    return float(verdicts.outcome.mean())


def test_who_knows_the_taste_wins_more_than_who_infers_it_and_both_more_than_who_believes_the_opposite(
    requests: pd.DataFrame, base: pd.DataFrame, preferences: Preferences, simulated: Path
) -> None:
    truth = Tastes.load(simulated / "truth")
    guess = inferred(preferences, simulated / "truth")
    known, guessed = win_rate(requests, base, truth, truth), win_rate(requests, base, truth, guess)
    opposite = win_rate(requests, base, truth, Tastes(truth.user_ids, -truth.weights))
    assert opposite < 0.2 < 0.7 < guessed < known
    assert known > 0.9


def test_it_sees_the_support_pairs_and_nothing_else(preferences: Preferences, simulated: Path) -> None:
    """Other people's pairs, and a person's other pairs, change nothing; a support pair turned round does."""
    user_id = preferences.users.user_id.iloc[0]
    believed = inferred(preferences, simulated / "truth").of([user_id])
    theirs = preferences.pairs.user_id == user_id
    support = theirs & (preferences.pairs.role == "support") & (preferences.pairs.support_group == 0)

    def after(turned: pd.Series) -> np.ndarray:
        pairs = preferences.pairs.copy()
        columns = ["chosen_uid", "rejected_uid"]
        pairs.loc[turned, columns] = pairs.loc[turned, columns[::-1]].to_numpy()
        changed = Preferences(**{**vars(preferences), "pairs": pairs})
        return inferred(changed, simulated / "truth").of([user_id])

    np.testing.assert_array_equal(after(~support), believed)
    assert np.abs(after(support) - believed).max() > 0.1
