"""Fewer and more choices of a user."""

from pathlib import Path

import pytest

from ppd.experiments.supports import supports_of
from ppd.preferences.store import Preferences
from ppd.simulation.truth.exact import support_pairs


@pytest.fixture
def log(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


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
