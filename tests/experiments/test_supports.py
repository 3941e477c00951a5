"""Fewer and more choices of a person, and what the exact posterior makes of them."""

from pathlib import Path

import numpy as np
import pytest

from ppd.experiments.supports import ExactReader, support_pairs, supports_of
from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation.truth.best_pick import posterior_tastes
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.users import population


@pytest.fixture
def log(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


@pytest.fixture
def exact(simulated: Path) -> ExactReader:
    return ExactReader(simulated / "truth", PeopleSettings())


def test_fewer_choices_are_the_first_of_more(log):
    user_ids = log.users.user_id.tolist()[:3]
    two, eight = (supports_of(log, user_ids, n) for n in (2, 8))
    assert all(a.pairs == b.pairs[:2] and len(b.pairs) == 8 for a, b in zip(two, eight, strict=True))


def test_the_conversation_and_the_exact_posterior_are_told_the_same(log):
    user_ids = log.users.user_id.tolist()[:3]
    rows = support_pairs(log, user_ids, 8)
    shown = {
        user_id: list(zip(log.image_bytes(theirs.chosen_uid.tolist()), theirs.caption, strict=True))
        for user_id, theirs in rows.groupby("user_id")
    }
    for group in supports_of(log, user_ids, 8):
        assert [(pair.preferred, pair.caption) for pair in group.pairs] == shown[group.user_id]


def test_after_four_choices_it_believes_what_the_report_calls_the_ceiling(log, exact, simulated):
    user_ids = log.users.user_id.tolist()
    ours = exact.tastes(exact.beliefs(support_pairs(log, user_ids, 4)))
    theirs = posterior_tastes(log, simulated / "truth", PeopleSettings())
    np.testing.assert_allclose(ours.of(user_ids), theirs.of(user_ids), atol=1e-9)


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
