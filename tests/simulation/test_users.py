import numpy as np
import pytest

from ppd.settings import PeopleSettings
from ppd.simulation.posterior import opinion_rate, posterior, predict_choice
from ppd.simulation.users import TRAITS, opinion_probability, population, preference_probability
from ppd.simulation.world import sample_features

SETTINGS = PeopleSettings()
PEOPLE = population(SETTINGS)
RATE = opinion_rate(PEOPLE, SETTINGS)


def choices(rng: np.random.Generator, kind: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`k` choices of one kind of person, drawn as the world says: preferred and rejected features [k, 9]."""
    first, second = sample_features(rng, 400), sample_features(rng, 400)
    gap = (first - second) @ PEOPLE.tastes[kind]
    kept = np.flatnonzero(rng.random(400) < opinion_probability(gap, SETTINGS))[:k]
    wins = rng.random(k) < preference_probability(gap[kept], PEOPLE.temperature[kind])
    a, b = first[kept], second[kept]
    return np.where(wins[:, None], a, b), np.where(wins[:, None], b, a)


def test_the_prior_is_a_distribution_and_fair_between_traits() -> None:
    assert PEOPLE.prior.sum() == pytest.approx(1)
    by_trait = np.bincount(PEOPLE.strongest, weights=PEOPLE.prior, minlength=len(TRAITS))
    styles, poles = by_trait[:4], by_trait[4:]
    np.testing.assert_allclose(styles, styles[0])
    np.testing.assert_allclose(poles, poles[0])
    assert styles.sum() == pytest.approx(poles.sum() / 5), "the style axis matters as often as any factor"
    assert (np.count_nonzero(np.round(PEOPLE.tastes, 9), axis=1) <= 2).all(), "a taste is sparse"


def test_the_posterior_is_calibrated() -> None:
    """Among predictions of about p, about p come true: only the exact posterior does that everywhere."""
    rng = np.random.default_rng(2)
    probability, outcome = [], []
    for kind in rng.choice(len(PEOPLE.prior), size=500, p=PEOPLE.prior):
        preferred, rejected = choices(rng, kind, 10)
        belief = posterior(PEOPLE, SETTINGS, RATE, preferred[:4], rejected[:4])
        flip = rng.random(6) < 0.5
        first = np.where(flip[:, None], rejected[4:], preferred[4:])
        second = np.where(flip[:, None], preferred[4:], rejected[4:])
        probability.append(predict_choice(PEOPLE, SETTINGS, belief[None], first, second))
        outcome.append(~flip)
    p, y = np.concatenate(probability), np.concatenate(outcome)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 0.9), (0.9, 1.0)):
        inside = (p >= low) & (p <= high)
        error = 4 * np.sqrt(0.25 / inside.sum())
        assert abs(p[inside].mean() - y[inside].mean()) < error


def test_no_choices_leave_the_prior_and_many_name_the_person() -> None:
    nothing = np.zeros((0, 9))
    np.testing.assert_allclose(posterior(PEOPLE, SETTINGS, RATE, nothing, nothing), PEOPLE.prior, rtol=1e-9)
    kind = int(PEOPLE.prior.argmax())
    belief = posterior(PEOPLE, SETTINGS, RATE, *choices(np.random.default_rng(3), kind, 60))
    named = np.bincount(PEOPLE.strongest, weights=belief, minlength=len(TRAITS))
    assert named.argmax() == PEOPLE.strongest[kind]
    assert named.max() > 0.95


def test_swapping_the_images_swaps_the_prediction() -> None:
    rng = np.random.default_rng(4)
    first, second = sample_features(rng, 20), sample_features(rng, 20)
    belief = posterior(PEOPLE, SETTINGS, RATE, *choices(rng, 7, 4))[None]
    one_way = predict_choice(PEOPLE, SETTINGS, belief, first, second)
    np.testing.assert_allclose(one_way + predict_choice(PEOPLE, SETTINGS, belief, second, first), 1)
