"""From one user to another and beyond: what both truly think of the images at each point of the line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import interpolated, plan_interpolations, plan_requests
from ppd.evaluation.plots import strip
from ppd.evaluation.tables import SAMPLE, with_columns
from ppd.experiments.models import first_embeddings_of_users, sample_once
from ppd.experiments.settings import ExperimentSettings, InterpolationSettings
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.settings import EvaluationSettings, Settings
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features, read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge_interpolations
from ppd.statistics.bootstrap import clustered_mean

N_STRIPS = 3


def write_interpolation(settings: Settings, experiments: ExperimentSettings, layout: Layout, out: Path) -> None:
    """Sample along the lines between pairs of test users, and write `out` and, beside it, strips of the images."""
    log = Preferences.open(layout.preferences)
    points = points_between(log, settings.evaluation, experiments.interpolation)
    users = interpolated(points, first_embeddings_of_users(layout))
    weights = layout.models / "ppd" / WEIGHTS
    work = work_folder(
        layout.experiment_work / "interpolation", [settings, experiments.interpolation], [weights, layout.whitening]
    )
    file = work / "images.parquet"
    sample_once(settings, layout.models / "ppd", with_columns(points, SAMPLE), users, file)
    requests, images = read_samples(file)
    classifier = load_classifier(settings.models.attribute_classifier)
    base = read_features_of_file("base", layout.sampled("base"), classifier)
    sampled = read_features("ppd", requests, images, classifier)
    judged = judge_interpolations(points, sampled, base, Tastes.load(layout.truth))
    judged = judged.assign(right=sampled.concept_right.to_numpy(), pair=judged["first"] + "~" + judged.second)
    rows = []
    for share, at in judged.groupby("share"):
        row: dict[str, object] = {"share": share, "n_images": len(at), "concept_accuracy": float(at.right.mean())}
        for side in ("gain_first", "gain_second"):
            gain = clustered_mean(at[side].to_numpy(), at.pair.to_numpy())
            row[side] = gain.as_row()
        rows.append(row)
    result = {"n_interpolations": int(judged.pair.nunique()), "rows": rows, "monotone": monotone_shares(judged)}
    first_captions = judged[judged.caption == judged.groupby("pair").caption.transform("first")]
    shown = first_captions[first_captions.pair.isin(judged.pair.unique()[:N_STRIPS])]
    with atomic_path(out.with_suffix(".png")) as fresh:
        fresh.write_bytes(strip(list(images[shown.index]), columns=len(experiments.interpolation.shares)))
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(layout.experiment_work / "interpolation")


def points_between(log: Preferences, evaluation: EvaluationSettings, settings: InterpolationSettings) -> pd.DataFrame:
    """As `plan_interpolations` of the evaluation, with the points of `settings.shares` in place of equal steps."""
    plan = evaluation.model_copy(
        update={
            "n_interpolations": settings.n_interpolations,
            "captions_per_interpolation": settings.captions_per_interpolation,
            "points_per_interpolation": 2,
        }
    )
    ends = plan_interpolations(plan_requests(log, plan), plan)
    starts = ends[ends["share"] == 0].drop(columns=["share", "user_id"])
    points = starts.merge(pd.DataFrame({"share": settings.shares}), how="cross")
    return points.assign(user_id=points["first"] + "~" + points.second + "~" + points["share"].map("{:.3f}".format))


def monotone_shares(judged: pd.DataFrame) -> dict[str, float]:
    """Share of pairs of users between whom the first's mean gain falls, and the second's rises, from end to end.

    Measured by the slope of a straight line through the points with a share in [0, 1].
    """
    inside = judged[judged["share"].between(0, 1)]
    found = {}
    for side, sign in (("gain_first", -1), ("gain_second", 1)):
        slopes = [np.polyfit(points["share"], points[side], 1)[0] for _, points in inside.groupby("pair")]
        found[side] = float(np.mean(np.sign(slopes) == sign))
    return found
