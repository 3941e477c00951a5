"""From one user to another and beyond: what both truly think of the images at each point of the line."""

import numpy as np
import pandas as pd

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import interpolated, plan_interpolations, plan_requests
from ppd.evaluation.plots import strip
from ppd.evaluation.tables import SAMPLE, with_columns
from ppd.experiments.models import first_embeddings_of_users, sample_once
from ppd.experiments.settings import ExperimentSettings, InterpolationSettings
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import EvaluationSettings, Settings
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features, read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge_interpolations
from ppd.statistics.bootstrap import clustered_mean

N_STRIPS = 3
SIDES = ("gain_first", "gain_second")


def write_interpolation(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Sample along the lines between pairs of test users; write the result and, beside it, strips of the images."""
    log, line = Preferences.open(layout.preferences), experiments.interpolation
    points = points_between(log, settings.evaluation, line)
    users, adapter = interpolated(points, first_embeddings_of_users(layout)), layout.models / "ppd"
    inputs = [adapter / WEIGHTS, layout.whitening]
    with resumable(layout.experiment_work / "interpolation", [settings, line], inputs) as work:
        file = work / "images.parquet"
        sample_once(settings, adapter, with_columns(points, SAMPLE), users, file)
        requests, images = read_samples(file)
        classifier = load_classifier(settings.models.attribute_classifier)
        base = read_features_of_file("base", layout.sampled("base"), classifier)
        sampled = read_features("ppd", requests, images, classifier)
        judged = judge_interpolations(points, sampled, base, Tastes.load(layout.truth))
        judged = judged.assign(right=sampled.concept_right.to_numpy(), pair=judged["first"] + "~" + judged.second)
        rows = []
        for share, at in judged.groupby("share"):
            gains = {side: clustered_mean(at[side].to_numpy(), at.pair.to_numpy()).as_row() for side in SIDES}
            found = {"share": share, "n_images": len(at), "concept_accuracy": float(at.right.mean())}
            rows.append({**found, **gains})
        first_captions = judged[judged.caption == judged.groupby("pair").caption.transform("first")]
        shown = first_captions[first_captions.pair.isin(judged.pair.unique()[:N_STRIPS])]
        out = layout.experiment_results / "interpolation.json"
        with atomic_path(out.with_suffix(".png")) as fresh:
            fresh.write_bytes(strip(list(images[shown.index]), columns=len(line.shares)))
        n = int(judged.pair.nunique())
        write_json(out, {"n_interpolations": n, "rows": rows, "monotone": monotone_shares(judged)})


def points_between(log: Preferences, evaluation: EvaluationSettings, settings: InterpolationSettings) -> pd.DataFrame:
    """As `plan_interpolations` of the evaluation, with the points of `settings.shares` in place of equal steps."""
    fewer = settings.model_dump(include={"n_interpolations", "captions_per_interpolation"})
    plan = evaluation.model_copy(update={**fewer, "points_per_interpolation": 2})
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
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        slopes = [np.polyfit(points["share"], points[side], 1)[0] for _, points in inside.groupby("pair")]
        found[side] = float(np.mean(np.sign(slopes) == sign))
    return found
