"""Simulated people, what they chose, and what an exact observer would answer about them: many at a time.

The language model is trained on the observer's *probabilities* (the exact posterior), not on what one person happened
to choose: the same optimum at a fraction of the variance.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ppd.settings import PeopleSettings
from ppd.simulation.posterior import choice_log_likelihood, opinion_rate, predict_choice
from ppd.simulation.users import (
    TRAITS,
    Population,
    opinion_probability,
    population,
    preference_probability,
    trait_directions,
)
from ppd.simulation.world import Scenes, scene_features

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_TRAITS = len(TRAITS)
N_DRAWS = 128  # candidate pairs a person sees; they have an opinion on more than enough of them


def profiles(people: Population) -> Ints:
    """The strongest and the second trait of each kind of person: [H, 2]; `N_TRAITS` means there is no second one."""
    weights = people.tastes @ trait_directions().T
    rest = weights.copy()
    rest[np.arange(len(rest)), people.strongest] = 0
    second = np.where(rest.max(axis=1) > 0, rest.argmax(axis=1), N_TRAITS)
    return np.stack([people.strongest, second], axis=1).astype(np.int64)


class PopulationCache:
    """The prior over people with everything that is computed from it once."""

    def __init__(self, settings: PeopleSettings) -> None:
        self.settings = settings
        self.people = population(settings)
        self.rate = opinion_rate(self.people, settings)
        self.profiles = profiles(self.people)
        one_hot = np.zeros((len(self.profiles), N_TRAITS, N_TRAITS + 1))
        one_hot[np.arange(len(one_hot)), self.profiles[:, 0], self.profiles[:, 1]] = 1
        self.profile_one_hot = one_hot.reshape(len(one_hot), -1)

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        """`n` people (indices of kinds) from the prior."""
        return rng.choice(len(self.people.prior), size=n, p=self.people.prior)

    def beliefs(self, chosen: Floats) -> Floats:
        """The exact posterior after 0, 1, …, k choices: features [N, k, preferred and rejected, 9] -> [N, k + 1, H]."""
        log_p = np.zeros((len(chosen), chosen.shape[1] + 1, len(self.people.prior)))
        shown = chosen[:, :, 0], chosen[:, :, 1]
        log_p[:, 1:] = choice_log_likelihood(self.people, self.settings, self.rate, *shown).cumsum(axis=1)
        log_p += np.log(self.people.prior)
        return np.asarray(np.exp(log_p - logsumexp(log_p, axis=-1, keepdims=True)))


@dataclass(frozen=True)
class ScenePool:
    """Scenes sorted by concept, from which pairs of one concept are drawn."""

    scenes: Scenes
    features: Floats
    starts: Ints
    counts: Ints

    @staticmethod
    def of(scenes: Scenes) -> "ScenePool":
        """`scenes` must be sorted by concept."""
        _, starts, counts = np.unique(scenes.concept, return_index=True, return_counts=True)
        if (np.diff(scenes.concept) < 0).any() or counts.min() < 2:
            raise ValueError("scenes must be sorted by concept, at least two of each")
        return ScenePool(scenes, scene_features(scenes), starts.astype(np.int64), counts.astype(np.int64))

    def sample_pairs(self, rng: np.random.Generator, shape: tuple[int, ...], concepts: Ints | None = None) -> Ints:
        """Two different scenes of one concept each: rows [*shape, 2]; of these concepts' ranks only, where given."""
        ranks = rng.integers(len(self.starts), size=shape) if concepts is None else rng.choice(concepts, size=shape)
        first = rng.integers(self.counts[ranks])
        second = (first + 1 + rng.integers(self.counts[ranks] - 1)) % self.counts[ranks]
        return np.stack([first, second], axis=-1) + self.starts[ranks][..., None]


def choose(
    rng: np.random.Generator,
    cache: PopulationCache,
    pool: ScenePool,
    kinds: Ints,
    n_pairs: int,
    concepts: Ints | None = None,
) -> Ints:
    """`n_pairs` choices of each person, as people make them (on pairs they have an opinion on).

    -> rows of the pool [N, n_pairs, 2]: the preferred scene, then the rejected one.
    """
    drawn = pool.sample_pairs(rng, (len(kinds), N_DRAWS), concepts)
    shown = pool.features[drawn]
    gap = np.einsum("nmd,nd->nm", shown[:, :, 0] - shown[:, :, 1], cache.people.tastes[kinds])
    accepted = rng.random(gap.shape) < opinion_probability(gap, cache.settings)
    if accepted.sum(axis=1).min() < n_pairs:
        raise RuntimeError(f"a person has fewer than {n_pairs} opinions on {N_DRAWS} pairs")
    kept = np.argsort(~accepted, axis=1, kind="stable")[:, :n_pairs]
    drawn, gap = np.take_along_axis(drawn, kept[..., None], axis=1), np.take_along_axis(gap, kept, axis=1)
    likes_first = rng.random(gap.shape) < preference_probability(gap, cache.people.temperature[kinds][:, None])
    return np.where(likes_first[..., None], drawn, drawn[..., ::-1])


@dataclass(frozen=True)
class Batch:
    """A batch of N people with K choices and B questions, and the exact answers. Rows are of the pool.

    kinds [N]; pairs [N, K, 2] preferred and rejected; taste [N, K + 1, 9] posterior mean after 0..K choices; profile
    [N, K + 1, traits, traits + 1] posterior of strongest and second trait; questions_after [B] number of choices known
    at each question; questions [N, B, 2] first and second candidate; answers [N, B] p(the first is preferred);
    own_profile [N, 2] the person's strongest and second trait.
    """

    kinds: Ints
    pairs: Ints
    taste: Floats
    profile: Floats
    questions_after: Ints
    questions: Ints
    answers: Floats
    own_profile: Ints

    def rows(self, some: slice) -> "Batch":
        """The same questions to some of the people."""
        of_people = ("kinds", "pairs", "taste", "profile", "questions", "answers", "own_profile")
        return replace(self, **{name: getattr(self, name)[some] for name in of_people})


def sample_batch(
    rng: np.random.Generator,
    cache: PopulationCache,
    pool: ScenePool,
    n_users: int,
    n_pairs: int,
    questions_after: Ints,
    real_share: float = 0.5,
) -> Batch:
    """A batch of people; `real_share` of the questions are pairs that the person has an opinion on, others any pair."""
    kinds = cache.sample(rng, n_users)
    n_questions = len(questions_after)
    chosen = choose(rng, cache, pool, kinds, n_pairs + n_questions)
    pairs = chosen[:, :n_pairs]
    belief = cache.beliefs(pool.features[pairs])
    any_pair = pool.sample_pairs(rng, (n_users, n_questions))
    real = np.where(rng.random((n_users, n_questions, 1)) < 0.5, chosen[:, n_pairs:], chosen[:, n_pairs:, ::-1])
    questions = np.where(rng.random((n_users, n_questions, 1)) < real_share, real, any_pair)
    shown = pool.features[questions]
    answers = predict_choice(cache.people, cache.settings, belief[:, questions_after], shown[:, :, 0], shown[:, :, 1])
    taste = belief @ cache.people.tastes
    profile = (belief @ cache.profile_one_hot).reshape(*belief.shape[:2], N_TRAITS, N_TRAITS + 1)
    return Batch(kinds, pairs, taste, profile, questions_after, questions, answers, cache.profiles[kinds])
