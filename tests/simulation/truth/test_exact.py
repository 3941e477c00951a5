"""What choices tell when nothing is lost."""

from pathlib import Path

import numpy as np
import pytest

from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.users import population


@pytest.fixture
def log(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


@pytest.fixture
def exact(simulated: Path) -> ExactObserver:
    return ExactObserver(simulated / "truth", PeopleSettings())


def test_a_belief_is_prior_times_likelihood(log, exact):
    rows = support_pairs(log, log.users.user_id.tolist()[:5], 4)
    prior = population(PeopleSettings()).prior
    for user_id, belief in exact.beliefs(rows).items():
        expected = prior * exact.likelihoods(rows)[user_id]
        np.testing.assert_allclose(belief, expected / expected.sum(), atol=1e-12)


def test_more_choices_tell_more(log, exact, simulated):
    user_ids = log.users.user_id.tolist()
    true = Tastes.load(simulated / "truth").of(user_ids)
    errors = [
        np.square(exact.tastes(exact.beliefs(support_pairs(log, user_ids, n))).of(user_ids) - true).mean()
        for n in (1, 8)
    ]
    assert errors[1] < errors[0]


def test_it_judges_choices_better_than_a_coin(log, exact):
    user_ids = log.users.user_id.tolist()
    requests = log.pairs[log.pairs.role == "eval"]
    right = exact.judge(exact.beliefs(support_pairs(log, user_ids, 4)), requests)
    assert right.mean() > 0.7
    swapped = requests.rename(columns={"chosen_uid": "rejected_uid", "rejected_uid": "chosen_uid"})
    np.testing.assert_allclose(exact.judge(exact.beliefs(support_pairs(log, user_ids, 4)), swapped), 1 - right)
