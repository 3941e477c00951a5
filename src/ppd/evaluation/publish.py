"""From verdicts to what people read: win_rates.json, metrics.json, plots, and the page around them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ppd.device import this_device
from ppd.diffusion.sampling.store import open_samples, read_samples
from ppd.diffusion.training.curve import read_curves
from ppd.evaluation.human import human_verdicts
from ppd.evaluation.metrics import (
    difference_metrics,
    headline_metrics,
    interpolation_metrics,
    judge_metrics,
    reward_metrics,
)
from ppd.evaluation.miniatures import interpolation_strips, user_pages
from ppd.evaluation.plan import plan_interpolations, plan_requests
from ppd.evaluation.plots import win_rate_plot
from ppd.evaluation.report import Report, write_report
from ppd.evaluation.reward_scores import score_images
from ppd.evaluation.tables import IMAGE_KEY
from ppd.evaluation.truth import TrueMeasures
from ppd.evaluation.win_rates import win_rates
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.rewards.scorers import load_scorers
from ppd.settings import Settings
from ppd.stage_times import latest
from ppd.stored_tables import read_frame


def publish(
    settings: Settings,
    preferences: Preferences,
    profiles: Mapping[str, Sequence[str]],
    images: Mapping[str, Path],
    layout: Layout,
    truth: TrueMeasures | None,
) -> None:
    """Write win_rates.json, metrics.json, win_rates.png and index.html to the reports, whole or not at all.

    Several processes may share the scoring (`ppd.parts`); the first one writes. images: the sampled images of each
    model. profiles: what the vision-language model wrote of each user.
    """
    samples = {model: open_samples(file) for model, file in images.items()}
    scorers = load_scorers(settings.rewards, device=this_device())
    scores = score_images(samples, scorers, layout.unfinished / "rewards", settings.rewards, images)
    if scores is None:
        return
    judges = ["ground_truth", "vlm"] if truth is not None else ["vlm"]
    verdicts = {judge: read_frame(layout.verdict(judge)) for judge in judges}
    people = human_verdicts(layout, preferences)
    compared = pd.concat([*verdicts.values(), *([people] if len(people) else [])], ignore_index=True)
    rates = win_rates(compared)
    metrics = judge_metrics(read_frame(layout.verdict("choices")), verdicts["vlm"])
    metrics |= headline_metrics(rates) | difference_metrics(compared)
    metrics |= reward_metrics(samples, scores)
    requests = plan_requests(preferences, settings.evaluation)
    points = plan_interpolations(requests, settings.evaluation)
    if truth is not None:
        readings = read_frame(layout.verdict("readings")).set_index(IMAGE_KEY)
        metrics |= truth.metrics(readings, {model: pixels for model, (_, pixels) in samples.items()})
        points = read_frame(layout.verdict("interpolations"))
        metrics |= interpolation_metrics(points)
    report = Report(
        win_rates=rates,
        metrics=metrics,
        users=user_pages(preferences, profiles, requests, samples, compared, truth),
        interpolations=interpolation_strips(points, read_samples(layout.sampled("ppd", "interpolations"))[1]),
        curves=read_curves(layout.models),
        simulated=truth is not None,
        origin=_origin(layout),
    )
    with atomic_path(layout.reports) as fresh:
        fresh.mkdir()
        (fresh / "win_rates.json").write_text(json.dumps(rates, indent=1) + "\n")
        (fresh / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
        (fresh / "win_rates.png").write_bytes(win_rate_plot([r for r in rates if r["pairing"] == "independent"]))
        write_report(report, fresh / "index.html")


def _origin(layout: Layout) -> dict[str, str]:
    """What a reader needs to reproduce it: what the trained adapter says of itself, and how long the stages took."""
    config = json.loads((layout.models / "ppd" / "config.json").read_text())
    keys = ("steps", "pairs_per_step", "learning_rate", "precision", "seed")
    # Its own would be that of the run before, and the page another one for having been made again.
    times = [f"{run.stage} {run.wall_s:.0f} s" for run in latest(layout.stage_times) if run.stage != "report"]
    return {
        "commit": config["commit"] or "not a git repository",
        "base": f"{config['base']['id']} ({config['base']['fingerprint']})",
        "data": str(config["data_hash"]),
        "training": ", ".join(f"{key} {config['training'][key]}" for key in keys),
        "loss": json.dumps(config["training"]["loss"]),
        "stage times": ", ".join(times) or "not recorded",
    }
