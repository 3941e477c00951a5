"""What choices tell about a person, exactly: Bayes over the finite prior of `ppd.simulation.users`.

This bounds every method that sees the same choices, and is put beside each result.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ppd.settings import PeopleSettings
from ppd.simulation.users import Population, opinion_probability, preference_probability
from ppd.simulation.world import N_FEATURES, sample_features

Floats = NDArray[np.float64]


def opinion_rate(people: Population, settings: PeopleSettings) -> Floats:
    """P(opinion on a random pair | person): [H], the mean over a fixed sample of pairs of the world."""
    looks = sample_features(np.random.default_rng(0), 2 * 16384).reshape(2, -1, N_FEATURES)
    return np.asarray(opinion_probability((looks[0] - looks[1]) @ people.tastes.T, settings).mean(axis=0))


def choice_log_likelihood(
    people: Population, settings: PeopleSettings, rate: Floats, preferred: Floats, rejected: Floats
) -> Floats:
    """log p(pair was chosen so | person) for each kind of person: features [..., 9] twice -> [..., H].

    Which pairs a person has an opinion on tells something too: p = opinion(g) * sigmoid(g / T) / P(opinion | person),
    whose denominator is `rate` [H] of `opinion_rate`.
    """
    gap = (preferred - rejected) @ people.tastes.T
    with np.errstate(divide="ignore"):
        opinion = np.log(opinion_probability(gap, settings))
    return np.asarray(opinion + np.log(preference_probability(gap, people.temperature)) - np.log(rate))


def posterior(
    people: Population, settings: PeopleSettings, rate: Floats, preferred: Floats, rejected: Floats
) -> Floats:
    """p(kind of person | k choices): features [..., k, 9] twice -> [..., H]. With k = 0 it is the prior."""
    log_p = np.log(people.prior) + choice_log_likelihood(people, settings, rate, preferred, rejected).sum(axis=-2)
    return np.asarray(np.exp(log_p - logsumexp(log_p, axis=-1, keepdims=True)))


def predict_choice(
    people: Population, settings: PeopleSettings, belief: Floats, first: Floats, second: Floats
) -> Floats:
    """p(first is preferred | belief, the person has an opinion): belief [..., H], features [..., 9] twice -> [...]."""
    gap = (first - second) @ people.tastes.T
    weight = belief * opinion_probability(gap, settings)
    first_wins = (weight * preference_probability(gap, people.temperature)).sum(axis=-1)
    total = weight.sum(axis=-1)
    return np.asarray(np.where(total > 0, first_wins / np.maximum(total, 1e-300), 0.5))
