"""Judging for simulated users by their own taste (`ppd.evaluation.truth.TrueJudge`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ppd.evaluation.truth import TrueVerdicts
from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.best_pick import judge_best_picks
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.simulation.truth.readings import read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge, judge_interpolations


@dataclass(frozen=True)
class SimulatedJudge:
    """The sticker world's users: their tastes in the folder `truth`, images read by the attribute classifier.

    people, pairs_per_group: what an exact observer knows of them, and from how many of their choices it infers.
    """

    preferences: Preferences
    truth: Path
    classifier: str | Path
    people: PeopleSettings
    pairs_per_group: int

    def judge(
        self, comparisons: pd.DataFrame, interpolations: pd.DataFrame, images: Mapping[str, Path], between: Path
    ) -> TrueVerdicts:
        """Verdicts by utility, those on the exact observer's picks, and what users gain between two of them."""
        classifier = load_classifier(self.classifier)
        readings = pd.concat([read_features_of_file(model, file, classifier) for model, file in images.items()])
        base, tastes = readings.loc[["base"]], Tastes.load(self.truth)
        points = read_features_of_file("ppd", between, classifier)
        observer = ExactObserver(self.truth, self.people)
        users = comparisons.user_id.unique().tolist()
        pairs = support_pairs(self.preferences, users, self.pairs_per_group)
        believed = observer.tastes(observer.beliefs(pairs))
        verdicts = [judge(comparisons, readings, tastes), judge_best_picks(comparisons, base, tastes, believed)]
        return TrueVerdicts(
            verdicts=pd.concat(verdicts, ignore_index=True),
            readings=readings,
            interpolations=judge_interpolations(interpolations, points, base, tastes),
        )


def load_classifier(checkpoint: str | Path) -> AttributeClassifier:
    """The attribute classifier in a folder, ready to read."""
    return AttributeClassifier.from_pretrained(checkpoint, use_safetensors=True).eval()
