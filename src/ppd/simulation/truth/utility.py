"""What a simulated user truly thinks of an image: their utility over its attributes.

Exact for a rendered scene; for a generated image it is as good as the attribute classifier, whose own accuracy its
model card states.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.simulation.world import FEATURES
from ppd.stored_tables import read_frame

USERS, IMAGES = "people.parquet", "images.parquet"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tastes:
    """The true tastes of users: user_ids [N] and utilities per feature [N, 9]."""

    user_ids: tuple[str, ...]
    weights: Floats

    @staticmethod
    def load(truth: Path) -> "Tastes":
        """Read the users of a truth. Only evaluation may: no stage before it opens this file (there is a test)."""
        users = read_frame(truth / USERS)
        return Tastes(tuple(users.user_id), users[list(FEATURES)].to_numpy(dtype=np.float64))

    def of(self, user_ids: list[str]) -> Floats:
        """The tastes of these users, in this order: [len(user_ids), 9]."""
        row = {user_id: i for i, user_id in enumerate(self.user_ids)}
        return self.weights[[row[user_id] for user_id in user_ids]]


def compare(comparisons: pd.DataFrame, utility: Floats, opponents: Floats, spread: Floats) -> pd.DataFrame:
    """The comparisons with `tables.VERDICT`, from what both images are worth to the user; all arrays [N]."""
    preferred = np.asarray((np.sign(utility - opponents) + 1) / 2)
    gain = (utility - opponents) / spread
    return comparisons.assign(judge="ground-truth", outcome=preferred, gain_sd=gain)


def spread_of(base: pd.DataFrame, taste: Floats) -> Floats:
    """The standard deviation of the base's images over all captions, in the eyes of each user: tastes [N, 9] -> [N]."""
    return np.asarray((base[list(FEATURES)].to_numpy() @ taste.T).std(axis=0))


def utility_of(readings: pd.DataFrame, keys: pd.MultiIndex, taste: Floats) -> Floats:
    """What the images with these keys are worth to users of these tastes [N, 9]: [N]."""
    return np.asarray((readings[list(FEATURES)].loc[keys].to_numpy() * taste).sum(axis=1))


def judge(comparisons: pd.DataFrame, readings: pd.DataFrame, tastes: Tastes) -> pd.DataFrame:
    """True verdicts on `tables.COMPARISONS`. readings: of all images, by `tables.IMAGE_KEY`, with `FEATURES`."""
    taste = tastes.of(list(comparisons.user_id))
    sides = (
        pd.MultiIndex.from_frame(comparisons[[model, user, "caption", seed]])
        for model, user, seed in (
            ("method", "method_user", "method_seed"),
            ("opponent_model", "opponent_user", "opponent_seed"),
        )
    )
    utility, opponents = (utility_of(readings, keys, taste) for keys in sides)
    return compare(comparisons, utility, opponents, spread_of(readings.loc[["base"]], taste))


def judge_interpolations(
    points: pd.DataFrame, readings: pd.DataFrame, base: pd.DataFrame, tastes: Tastes
) -> pd.DataFrame:
    """What both users truly gain at each point over the base's mean, in SD of the base: gain_first, gain_second.

    points: `tables.INTERPOLATIONS`. readings: of their images, in the same order; base: of the base's.
    """
    features = list(FEATURES)
    between, pool = readings[features].to_numpy(), base[features].to_numpy()
    gains = {}
    for name in ("first", "second"):
        taste = tastes.of(list(points[name]))
        at_base = pool @ taste.T
        gains[f"gain_{name}"] = ((between * taste).sum(axis=1) - at_base.mean(axis=0)) / at_base.std(axis=0)
    return points.assign(**gains)
