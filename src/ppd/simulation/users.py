"""Simulated people: a sparse taste over the free factors of a sticker, and the choices it leads to.

A person likes one or two things. The prior over people is a finite, weighted list of tastes, so that the exact
posterior given some choices is a sum (`ppd.simulation.posterior`) and every method can be held against what the choices
really tell.

How a choice comes about, for a pair with utility gap g = U(a) - U(b):
    opinion     with probability 1 - exp(-(g / indifference)^2) they have one; else they skip the pair or call it a tie
    preference  a is preferred with probability sigmoid(g / temperature)  (Bradley-Terry)
So people mostly leave choices that they feel about; that is what makes four pairs telling.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ppd.settings import PeopleSettings
from ppd.simulation.world import FACTORS, N_FEATURES, STYLES

Floats = NDArray[np.float64]

TRAITS: tuple[str, ...] = tuple(f"{style} style" for style in STYLES) + tuple(
    f"{pole} {factor.noun}" for factor in FACTORS for pole in (factor.low, factor.high)
)


@dataclass(frozen=True)
class Population:
    """Every kind of person there can be, with its prior probability.

    tastes [H, N_FEATURES]: utility per unit of each feature. temperature [H]. prior [H], sums to 1.
    strongest [H]: index in `TRAITS` of the strongest trait.
    """

    tastes: Floats
    temperature: Floats
    prior: Floats
    strongest: NDArray[np.int64]


def _trait_direction(trait: int) -> Floats:
    """The unit utility of one trait over the features."""
    direction = np.zeros(N_FEATURES)
    if trait < len(STYLES):
        direction[trait] = 1.0
    else:
        factor, pole = divmod(trait - len(STYLES), 2)
        direction[len(STYLES) + factor] = 1.0 if pole else -1.0
    return direction


def _axis(trait: int) -> int:
    """Traits of one axis exclude each other: one style, or the two poles of a factor."""
    return 0 if trait < len(STYLES) else 1 + (trait - len(STYLES)) // 2


def population(settings: PeopleSettings) -> Population:
    """The prior over people: one strong trait, or a strong and a second one on another axis, each reliable or not."""
    single = [((t,), 1.0) for t in range(len(TRAITS))]
    double = [((s, t), 1.0) for s, t in itertools.permutations(range(len(TRAITS)), 2) if _axis(s) != _axis(t)]
    rows: list[tuple[Floats, float, float, int]] = []
    for group, share in ((single, 1 - settings.two_trait_share), (double, settings.two_trait_share)):
        # Axes are equally likely to matter, whatever the number of their poles.
        weights = np.array(
            [np.prod([1 / (len(STYLES) if t < len(STYLES) else 2) for t in traits]) for traits, _ in group]
        )
        weights *= share / weights.sum()
        for (traits, _), weight in zip(group, weights, strict=True):
            strengths = itertools.product(settings.strong, *([settings.second] * (len(traits) - 1)))
            combos = list(strengths)
            for combo in combos:
                taste = sum((s * _trait_direction(t) for s, t in zip(combo, traits, strict=True)), np.zeros(N_FEATURES))
                for temperature, reliability in (
                    (settings.temperature, 1 - settings.unreliable_share),
                    (settings.unreliable_temperature, settings.unreliable_share),
                ):
                    rows.append((taste, temperature, weight * reliability / len(combos), traits[0]))
    tastes, temperatures, priors, strongest = zip(*rows, strict=True)
    return Population(np.array(tastes), np.array(temperatures), np.array(priors), np.array(strongest))


def opinion_probability(gap: Floats, settings: PeopleSettings) -> Floats:
    """How likely a person has an opinion on a pair with this utility gap."""
    return np.asarray(1 - np.exp(-((gap / settings.indifference) ** 2)))


def preference_probability(gap: Floats, temperature: Floats | float) -> Floats:
    """Bradley-Terry: probability that the first image is preferred, given an opinion."""
    return np.asarray(expit(gap / temperature))
