import numpy as np
import pytest

from bench.world_ceiling import ceilings, draw_choices
from ppd.settings import PeopleSettings
from ppd.simulation.users import population


def test_the_shipped_world_can_be_learned_from_four_pairs() -> None:
    """The promise of the world: with four pairs the judge's ceiling is at least .80, best-of-64 at least .86."""
    one, four, eight = ceilings(PeopleSettings(), n_users=320, pair_counts=(1, 4, 8))
    assert four.judge.low >= 0.80
    assert four.best_of.low >= 0.86
    for score in ("judge", "cosine", "best_of", "top_5"):
        assert getattr(one, score).mean < getattr(four, score).mean < getattr(eight, score).mean


def test_people_who_feel_too_little_are_an_error() -> None:
    settings = PeopleSettings(indifference=1000.0)
    people = population(settings)
    with pytest.raises(ValueError, match="indifference"):
        draw_choices(np.random.default_rng(0), people, settings, np.array([0]), 8)
