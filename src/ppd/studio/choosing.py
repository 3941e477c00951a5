"""Which pair to show next: the one whose answer says most about the visitor's embedding u.

What is believed of u is a weighted list of embeddings, at first all alike: those of the people of the log, or a
standard normal (whitened embeddings have mean 0 and variance 1). An answer to the pair with direction d
(`ppd.studio.pool`) weighs them anew. With g = SCALE · d·u

    P(opinion) = 1 − exp(−(g / INDIFFERENCE)²)    P(first) = P(opinion)·σ(g)    P(second) = P(opinion)·σ(−g)

The next pair has the greatest information gain I(u; answer) = H(answer) − E_u[H(answer | u)], of the captions that the
visitor has not seen lately. The first two are the same for everybody, so that what is asked first covers what people
differ in before anything is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ppd.studio.pool import Pool

SCALE = 1.0
INDIFFERENCE = 2.0
N_PARTICLES = 4096
N_FIXED = 2

Floats = NDArray[np.float32]
Outcome = Literal["first", "second", "skip"]


@dataclass(frozen=True)
class Asked:
    """A pair of the pool by its number, and what the visitor said of it."""

    pair: int
    outcome: Outcome


@dataclass(frozen=True)
class Next:
    """A pair of the pool, and why: fixed, active or random."""

    pair: int
    how: str


class Chooser(Protocol):
    """Says which pair comes after these, or None when the pool is used up."""

    def __call__(self, asked: Sequence[Asked]) -> Next | None: ...


def prior(people: Sequence[NDArray[np.float64]], n_dims: int) -> Floats:
    """The embeddings [M, D] that are believed in before anything is asked."""
    rng = np.random.default_rng(0)
    if len(people) < N_PARTICLES // 8:
        return rng.standard_normal((N_PARTICLES, n_dims)).astype(np.float32)
    known = np.stack(people)
    return known[rng.permutation(len(known))[:N_PARTICLES]].astype(np.float32)


class ActiveChooser:
    """By information gain. One is enough for all visitors; a call takes some milliseconds, and none a second time."""

    def __init__(self, pool: Pool, particles: Floats) -> None:
        gap = np.float32(SCALE) * particles @ pool.directions.T.astype(np.float32)  # [M, P]
        opinion = -np.expm1(-((gap / np.float32(INDIFFERENCE)) ** 2))
        first = opinion / (1 + np.exp(-gap))
        self._chances: dict[Outcome, Floats] = {"first": first, "second": opinion - first, "skip": 1 - opinion}
        self._uncertain = np.sum(
            [_surprise(chance) for chance in self._chances.values()], axis=0
        )  # H(answer | u) [M, P]
        self._captions = np.array(pool.captions)
        self._fixed = self._first_pairs(min(N_FIXED, len(set(pool.captions))))
        self._remembered = lru_cache(maxsize=4096)(self._choose)

    def __call__(self, asked: Sequence[Asked]) -> Next | None:
        return self._remembered(tuple(asked))

    def _choose(self, asked: tuple[Asked, ...]) -> Next | None:
        shown = {one.pair for one in asked}
        for pair in self._fixed:
            if pair not in shown and len(asked) < N_FIXED:
                return Next(pair, "fixed")
        open_to = self._open(asked)
        if not open_to.any():
            return None
        return Next(int(np.argmax(np.where(open_to, self.gain(asked), -np.inf))), "active")

    def gain(self, asked: Sequence[Asked]) -> Floats:
        """I(u; answer) in nats for each pair of the pool [P], given what was said."""
        return self._gain(self.belief(asked))

    def belief(self, asked: Sequence[Asked]) -> Floats:
        """Weights of the embeddings [M], given what was said; they sum to 1."""
        n = len(self._uncertain)
        log = np.zeros(n, dtype=np.float64)
        for one in asked:
            log += np.log(np.maximum(self._chances[one.outcome][:, one.pair], 1e-12))
        weights = np.exp(log - log.max())
        return np.asarray(weights / weights.sum(), dtype=np.float32)

    def _gain(self, belief: Floats) -> Floats:
        mean = np.sum([_surprise(belief @ chance) for chance in self._chances.values()], axis=0)
        return np.asarray(mean - belief @ self._uncertain)

    def _open(self, asked: Sequence[Asked]) -> NDArray[np.bool_]:
        """Pairs that were not shown, of captions that were not either; when all were, of those longest ago."""
        shown = [one.pair for one in asked]
        n_captions = len(set(self._captions))
        lately = shown[-(n_captions - 1) :] if n_captions > 1 else []
        fresh = ~np.isin(self._captions, self._captions[lately])
        fresh[shown] = False
        return fresh

    def _first_pairs(self, n: int) -> list[int]:
        """The pair that says most of anybody, then the one that says most once that was answered, on average."""
        pairs: list[int] = []
        beliefs = [(1.0, self.belief([]))]
        for _ in range(n):
            gain = sum(share * self._gain(belief) for share, belief in beliefs)
            gain = np.where(np.isin(self._captions, self._captions[pairs]), -np.inf, gain)
            pairs.append(int(np.argmax(gain)))
            split = []
            for share, belief in beliefs:
                for chance in self._chances.values():
                    joint = belief * chance[:, pairs[-1]]
                    total = float(joint.sum())
                    split.append((share * total, joint / max(total, 1e-12)))
            beliefs = split
        return pairs


def _surprise(chance: Floats) -> Floats:
    """−p·log p."""
    return np.asarray(-chance * np.log(np.maximum(chance, 1e-12)))
