"""From one person to another and beyond: what both truly think of the pictures at each point of the line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from ppd.diffusion.adapter.checkpoint import WEIGHTS, load_adapter, read_config
from ppd.diffusion.sampling.store import draw, read_samples
from ppd.evaluation.judge import sample_files
from ppd.evaluation.plan import plan_interpolations, plan_requests
from ppd.evaluation.plots import strip
from ppd.experiments.models import base_model
from ppd.experiments.paths import Paths
from ppd.experiments.settings import ExperimentSettings, WaySettings
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.readings import read_features
from ppd.simulation.truth.utility import Tastes, judge_interpolations
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening

N_STRIPS = 3


def write_interpolation(settings: Settings, experiments: ExperimentSettings, paths: Paths, out: Path) -> None:
    """Draw along the lines between pairs of test people, and write `out` and, beside it, strips of the images."""
    log = Preferences.open(paths.preferences)
    points = ways(log, settings.evaluation, experiments.ways)
    people = whitened(load_embeddings(paths.users), Whitening.load(paths.whitening))
    users = {
        name: people[first][0].lerp(people[second][0], share)
        for name, first, second, share in zip(
            points.user_id, points["first"], points.second, points["share"], strict=True
        )
    }
    backbone = base_model(settings, settings.sampling.precision)
    adapter, identity = load_adapter(paths.models / "ppd", backbone), read_config(paths.models / "ppd")
    weights = paths.models / "ppd" / WEIGHTS
    work = work_for(paths.work / "interpolation", [settings, experiments.ways], [weights, paths.whitening])
    file = work / "images.parquet"
    wanted = points[["user_id", "caption", "seed"]]
    if not file.exists():
        draw(
            wanted,
            backbone,
            settings.sampling,
            file,
            adapter=adapter,
            people=users,
            identity=identity.model_dump_json(),
        )
    requests, images = read_samples(file)
    reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
    base = read_features("base", *read_samples(sample_files(paths.samples)["base"]), reader)
    drawn = read_features("ppd", requests, images, reader)
    judged = judge_interpolations(points, drawn, base, Tastes.load(paths.truth))
    judged = judged.assign(right=drawn.concept_right.to_numpy(), way=judged["first"] + "~" + judged.second)
    rows = []
    for share, at in judged.groupby("share"):
        row: dict[str, object] = {"share": share, "n_images": len(at), "concept_accuracy": float(at.right.mean())}
        for side in ("gain_first", "gain_second"):
            gain = clustered_mean(at[side].to_numpy(), at.way.to_numpy())
            row[side] = {"mean": gain.mean, "ci_low": gain.low, "ci_high": gain.high}
        rows.append(row)
    result = {"n_interpolations": int(judged.way.nunique()), "rows": rows, "monotone": monotone_shares(judged)}
    first_captions = judged[judged.caption == judged.groupby("way").caption.transform("first")]
    shown = first_captions[first_captions.way.isin(judged.way.unique()[:N_STRIPS])]
    with atomic_path(out.with_suffix(".png")) as fresh:
        fresh.write_bytes(strip(list(images[shown.index]), columns=len(experiments.ways.shares)))
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(paths.work / "interpolation")


def ways(log: Preferences, evaluation: EvaluationSettings, settings: WaySettings) -> pd.DataFrame:
    """As `ppd.evaluation.plan.plan_interpolations`, with the points of `settings.shares` in place of equal steps inside."""
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
    """Share of ways on which the first person's mean gain falls, and the second's rises, from end to end.

    Measured by the slope of a straight line through the points with a share in [0, 1].
    """
    inside = judged[judged["share"].between(0, 1)]
    found = {}
    for side, sign in (("gain_first", -1), ("gain_second", 1)):
        slopes = [np.polyfit(way["share"], way[side], 1)[0] for _, way in inside.groupby("way")]
        found[side] = float(np.mean(np.sign(slopes) == sign))
    return found
