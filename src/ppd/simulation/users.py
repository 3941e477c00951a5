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


def trait_directions() -> Floats:
    """The unit utility of each trait over the features: [len(TRAITS), N_FEATURES]."""
    directions = np.zeros((len(TRAITS), N_FEATURES))
    for trait in range(len(TRAITS)):
        if trait < len(STYLES):
            directions[trait, trait] = 1.0
        else:
            factor, pole = divmod(trait - len(STYLES), 2)
            directions[trait, len(STYLES) + factor] = 1.0 if pole else -1.0
    return directions


def _axis(trait: int) -> int:
    """Traits of one axis exclude each other: one style, or the two poles of a factor."""
    return 0 if trait < len(STYLES) else 1 + (trait - len(STYLES)) // 2


def population(settings: PeopleSettings) -> Population:
    """The prior over people: one strong trait, or a strong and a second one on another axis, each reliable or not."""
    single: list[tuple[int, ...]] = [(t,) for t in range(len(TRAITS))]
    double = [(s, t) for s, t in itertools.permutations(range(len(TRAITS)), 2) if _axis(s) != _axis(t)]
    directions = trait_directions()
    rows: list[tuple[Floats, float, float, int]] = []
    for group, share in ((single, 1 - settings.two_trait_share), (double, settings.two_trait_share)):
        # Axes are equally likely to matter, whatever the number of their poles.
        weights = np.array([np.prod([1 / (len(STYLES) if t < len(STYLES) else 2) for t in traits]) for traits in group])
        weights *= share / weights.sum()
        for traits, weight in zip(group, weights, strict=True):
            combos = list(itertools.product(settings.strong, *([settings.second] * (len(traits) - 1))))
            for combo in combos:
                taste = sum((s * directions[t] for s, t in zip(combo, traits, strict=True)), np.zeros(N_FEATURES))
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
