"""What an evaluation asks of a truth: of users whose taste is known, because they are simulated.

Real users have none. Nothing here knows what the truth is about; `ppd.simulation.truth` is the one that there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from ppd.evaluation.tables import Images


@dataclass(frozen=True)
class TrueVerdicts:
    """What the users truly think.

    verdicts: of `tables.COMPARISONS`, judge "ground-truth", and of the method "ceiling" in ppd's place, which is what
    exact inference from the same support pairs would win. readings: what is seen in each image, by `tables.IMAGE_KEY`.
    interpolations: `tables.INTERPOLATIONS` with what both users gain, gain_first and gain_second, in SD of the base.
    """

    verdicts: pd.DataFrame
    readings: pd.DataFrame
    interpolations: pd.DataFrame


class TrueJudge(Protocol):
    """Judges by the true taste of every user of a log."""

    def judge(
        self, comparisons: pd.DataFrame, interpolations: pd.DataFrame, images: Mapping[str, Path], between: Path
    ) -> TrueVerdicts:
        """Verdicts on planned comparisons. images: the sampled images of each model; between: the interpolations'."""
        ...


class TrueMeasures(Protocol):
    """What a report tells beside the verdicts of a true judge."""

    def metrics(self, readings: pd.DataFrame, images: Mapping[str, Images]) -> dict[str, float]:
        """Do the images of each model still show what was asked, and are they still pictures? By dotted names."""
        ...

    def taste(self, user_id: str) -> str:
        """A user's true taste in a few words."""
        ...
