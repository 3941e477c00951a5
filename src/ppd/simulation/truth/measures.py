"""What a report tells of the sticker world beside its users' verdicts (`ppd.evaluation.truth.TrueMeasures`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ppd.device import this_device
from ppd.evaluation.tables import Images
from ppd.rewards.clip_score import ClipScorer
from ppd.simulation.truth.image_quality import concept_accuracy, image_precision, style_shares
from ppd.simulation.truth.utility import USERS
from ppd.stored_tables import read_frame


@dataclass(frozen=True)
class SimulatedMeasures:
    """Of images beside fresh renders of the art in `stickers`, and of the users in `truth`."""

    clip: str | Path
    truth: Path
    stickers: Path

    def metrics(self, readings: pd.DataFrame, images: Mapping[str, Images]) -> dict[str, float]:
        """Concept accuracy, shares of styles, and precision of each model's images."""
        clip = ClipScorer.from_pretrained(self.clip, device=this_device())
        return concept_accuracy(readings) | style_shares(readings) | image_precision(images, clip, self.stickers)

    def taste(self, user_id: str) -> str:
        """The strongest trait."""
        return f"{self._strongest[user_id]} above all"

    @cached_property
    def _strongest(self) -> "pd.Series[str]":
        return read_frame(self.truth / USERS).set_index("user_id")["strongest"]
