"""What a simulated person truly thinks of an image: their utility over what a reader sees in it.

Exact for a rendered scene; for a generated image it is as good as the reader, whose own accuracy the report states.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.errors import InputError
from ppd.simulation.world import FACTORS, STYLES

PEOPLE = "people.parquet"

Floats = NDArray[np.float64]
FEATURES: tuple[str, ...] = (*STYLES, *(factor.name for factor in FACTORS))


def is_known(truth: Path) -> bool:
    """Whether the people's true taste is known: for real people the folder is empty."""
    return (truth / PEOPLE).exists()


@dataclass(frozen=True)
class Tastes:
    """The true tastes of people: user_ids [N] and utilities per feature [N, 9]."""

    user_ids: tuple[str, ...]
    weights: Floats

    @staticmethod
    def load(truth: Path) -> "Tastes":
        """Read truth/people.parquet. Only evaluation may: no stage before it opens this file (there is a test)."""
        file = truth / PEOPLE
        if not file.exists():
            raise InputError("no ground truth here; expected the file that comes with the simulated log", file=file)
        people = pd.read_parquet(file)
        return Tastes(tuple(people.user_id), people[list(FEATURES)].to_numpy(dtype=np.float64))

    def of(self, user_ids: list[str]) -> Floats:
        """The tastes of these people, in this order: [len(user_ids), 9]."""
        row = {user_id: i for i, user_id in enumerate(self.user_ids)}
        return self.weights[[row[user_id] for user_id in user_ids]]


def outcome(utility: Floats, opponents: Floats) -> Floats:
    """1 where an image is worth more to the person than its opponent, 0 less, 0.5 the same."""
    return np.asarray((np.sign(utility - opponents) + 1) / 2)


IMAGE_KEY = ["model", "user_id", "caption", "seed"]
"""What names a generated image; pooled models draw for user_id ""."""


def judge(comparisons: pd.DataFrame, readings: pd.DataFrame, tastes: Tastes) -> pd.DataFrame:
    """True verdicts on `ppd.evaluation.plan.plan_comparisons`: the same rows with outcome, gain_sd and judge = "ground-truth".

    seen_in: what the reader saw, indexed by `IMAGE_KEY`, with the columns `FEATURES`. gain_sd is the person's gain in
    utility over the spread (standard deviation) of what the base draws for all captions, in the eyes of that person.
    """
    method_key = pd.MultiIndex.from_frame(comparisons[["method", "method_user", "caption", "method_seed"]])
    opponent_key = pd.MultiIndex.from_frame(
        comparisons[["opponent_model", "opponent_user", "caption", "opponent_seed"]]
    )
    taste = tastes.of(list(comparisons.user_id))
    features = list(FEATURES)
    utility = (readings[features].loc[method_key].to_numpy() * taste).sum(axis=1)
    opponents = (readings[features].loc[opponent_key].to_numpy() * taste).sum(axis=1)
    base = readings[features].xs("base", level="model").to_numpy()
    spread = (base @ taste.T).std(axis=0)
    return comparisons.assign(
        judge="ground-truth", outcome=outcome(utility, opponents), gain_sd=(utility - opponents) / spread
    )


def judge_interpolations(
    ways: pd.DataFrame, readings: pd.DataFrame, base: pd.DataFrame, tastes: Tastes
) -> pd.DataFrame:
    """What both people of each journey truly gain at each point over the base's mean, in SD of the base.

    ways: `ppd.evaluation.plan.plan_interpolations`. seen_in: what the reader saw in their images, in the same order; base: in the
    base's. Adds the columns gain_first and gain_second.
    """
    features = list(FEATURES)
    drawn, pool = readings[features].to_numpy(), base[features].to_numpy()
    gains = {}
    for name in ("first", "second"):
        taste = tastes.of(list(ways[name]))
        at_base = pool @ taste.T
        gains[f"gain_{name}"] = ((drawn * taste).sum(axis=1) - at_base.mean(axis=0)) / at_base.std(axis=0)
    return ways.assign(**gains)
