"""The sticker world: what a picture shows (its concept, which the caption names) and what it leaves free.

A caption names the concept only. Drawing style and five two-sided factors are free, each equally likely and
independent; they are what users differ in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUPS: dict[str, tuple[str, ...]] = {
    "animals": ("fox", "panda", "frog", "penguin", "octopus", "turtle", "butterfly", "owl"),
    "food": ("red apple", "banana", "strawberry", "pizza", "doughnut", "carrot"),
    "vehicles": ("automobile", "rocket", "sailboat", "locomotive"),
    "plants": ("cactus", "sunflower", "tulip", "mushroom", "palm tree"),
    "objects": ("guitar", "balloon", "crown", "key", "bell", "wrapped gift"),
    "places": ("house", "castle", "tent"),
}
CONCEPTS: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
STYLES: tuple[str, ...] = ("paper", "glossy", "ink", "pixel")


@dataclass(frozen=True)
class Factor:
    """A two-sided free factor: its value is in [-1, -0.25] (low) or [0.25, 1] (high)."""

    name: str
    low: str
    high: str
    noun: str


FACTORS: tuple[Factor, ...] = (
    Factor("lightness", "dark", "light", "background"),
    Factor("warmth", "cool", "warm", "background"),
    Factor("saturation", "muted", "vivid", "colours"),
    Factor("size", "small", "large", "subject"),
    Factor("pattern", "dotted", "ringed", "background"),
)
FEATURES: tuple[str, ...] = (*STYLES, *(factor.name for factor in FACTORS))
N_FEATURES = len(FEATURES)
WEAKEST_FACTOR = 0.25  # both sides are told apart by eye
FACTOR_SD = ((1 - WEAKEST_FACTOR**3) / (3 * (1 - WEAKEST_FACTOR))) ** 0.5
IMAGE_PX = 64


@dataclass(frozen=True)
class Scenes:
    """N scenes as columns: concept [N] and style [N] are indices, factors [N, 5] in [-1, 1], seed [N] fixes jitter."""

    concept: NDArray[np.int64]
    style: NDArray[np.int64]
    factors: NDArray[np.float64]
    seed: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.concept)

    def __getitem__(self, rows: "slice | NDArray[np.integer] | NDArray[np.bool_]") -> "Scenes":
        return Scenes(self.concept[rows], self.style[rows], self.factors[rows], self.seed[rows])

    @staticmethod
    def concatenate(parts: "Sequence[Scenes]") -> "Scenes":
        return Scenes(*(np.concatenate([getattr(part, column) for part in parts]) for column in Scenes.__annotations__))


def caption(concept: int) -> str:
    """The caption of a concept; the free factors are never mentioned."""
    name = CONCEPTS[concept]
    return f"a sticker of {'an' if name[0] in 'aeiou' else 'a'} {name}"


def sample_factors(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Independent two-sided factor values: [n, 5]."""
    shape = (n, len(FACTORS))
    return rng.choice([-1.0, 1.0], size=shape) * rng.uniform(WEAKEST_FACTOR, 1, size=shape)


def sample_scenes(rng: np.random.Generator, n: int, concepts: NDArray[np.integer] | None = None) -> Scenes:
    """`n` scenes with independent, uniform free factors; concepts are uniform too unless given ([n])."""
    return Scenes(
        concept=np.asarray(rng.integers(len(CONCEPTS), size=n) if concepts is None else concepts, dtype=np.int64),
        style=rng.integers(len(STYLES), size=n),
        factors=sample_factors(rng, n),
        seed=rng.integers(2**62, size=n),
    )


def features(style_shares: NDArray[np.floating], factors: NDArray[np.floating]) -> NDArray[np.float64]:
    """What utilities are linear in: [N, 9], every column of mean 0 and variance 1 over the world.

    style_shares [N, 4]: one-hot for a scene, a reader's probabilities for a generated image. factors [N, 5] in [-1, 1].
    """
    n_styles = len(STYLES)
    centred = (style_shares - 1 / n_styles) * n_styles / np.sqrt(n_styles - 1)
    return np.concatenate([centred, factors / FACTOR_SD], axis=1).astype(np.float64)


def scene_features(scenes: Scenes) -> NDArray[np.float64]:
    """The features of rendered scenes, exactly: [N, 9]."""
    return features(np.eye(len(STYLES))[scenes.style], scenes.factors)


def sample_features(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Features of `n` random scenes: [n, 9]."""
    return features(np.eye(len(STYLES))[rng.integers(len(STYLES), size=n)], sample_factors(rng, n))
