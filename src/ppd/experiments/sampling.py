"""How to sample for a user: at which noise levels, and how strongly; chosen here, on validation users and captions.

The adapter is trained at high noise; at low noise its branch adds noise of its own (`sampling.user_interval`). For
every setting of the grid the headline's adapters sample as the pipeline does, and the true taste judges. No user and no
caption of a result is looked at.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ppd.diffusion.sampling.sampler import n_forwards
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import image_requests
from ppd.evaluation.win_rates import sampled_factors, win_rates
from ppd.experiments.ablation import mean_of
from ppd.experiments.models import base_model, first_embeddings_of_users, sample_once
from ppd.experiments.plan import comparisons_of_ppd, requests_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import COST, adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings, SamplingGridSettings
from ppd.experiments.shared_inputs import POOL, ImageMeasures, base_samples
from ppd.files import read_json, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import SamplingSettings, Settings
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.bootstrap import crossed_mean

MEASURES = {"concept_accuracy": "concept_right", "precision": "in_manifold"}


def write_sampling(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Sample with every seed's adapter at every setting, judge by the true taste, and write the rows and the choice."""
    weights = [*adapter_files(settings, experiments, layout), layout.shared_inputs / POOL]
    described = [settings, experiments.trial, experiments.sampling]
    with resumable(layout.experiment_work / "sampling", described, weights) as work:
        folders = {seed: work / f"seed-{seed}" for seed in experiments.seeds}
        jobs = {f"seed-{seed}": (settings, experiments, layout, seed, folder) for seed, folder in folders.items()}
        run_side_by_side(_sample, jobs, work / "logs", n_workers=experiments.n_workers)
        log = Preferences.open(layout.preferences)
        requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
        planned = comparisons_of_ppd(requests, plan, ("base", "ppd-shuffled"))
        tastes, measures = Tastes.load(layout.truth), ImageMeasures.load(settings, layout)
        base = measures.table("base", *base_samples(layout, POOL, requests))
        process = base_model(settings, settings.sampling.precision).process
        rows, tried = [], grid(settings.sampling, experiments.sampling)
        for sampling in tried:
            seen = {
                seed: measures.table("ppd", *read_samples(folder / f"{_name(sampling)}.parquet"))
                for seed, folder in folders.items()
            }
            verdicts = [
                judge(planned, pd.concat([base, readings]), tastes).assign(training_seed=seed)
                for seed, readings in seen.items()
            ]
            together = pd.concat([readings.assign(training_seed=seed).reset_index() for seed, readings in seen.items()])
            rows.append(
                {
                    "interval": list(sampling.user_interval),
                    "strength": sampling.user_guidance,
                    "forwards": n_forwards(process, sampling, for_user=True),
                    "win_rates": win_rates(pd.concat(verdicts, ignore_index=True)),
                    **measured(together),
                }
            )
        at_base = measured(base.reset_index()) | {"forwards": n_forwards(process, settings.sampling, for_user=False)}
        costs = [adapter_folder(settings, layout, seed) / COST for seed in experiments.seeds]
        headline = {"steps": settings.finetune.steps, "pairs_per_step": settings.finetune.pairs_per_step}
        result = {
            "seeds": list(experiments.seeds),
            "headline": headline | mean_of([read_json(file) for file in costs if file.exists()]),
            "base": at_base,
            "rows": rows,
            "ours": next((n for n, sampling in enumerate(tried) if sampling == settings.sampling), None),
            "chosen": choice(rows, at_base, experiments.sampling),
        }
        write_json(layout.experiment_results / "sampling.json", result)


def grid(sampling: SamplingSettings, settings: SamplingGridSettings) -> list[SamplingSettings]:
    """Every setting that is tried."""
    high = sampling.user_interval[1]
    return [
        sampling.model_copy(update={"user_interval": (low, high), "user_guidance": strength})
        for low, strength in settings.grid
    ]


def measured(readings: pd.DataFrame, measures: Mapping[str, str] = MEASURES) -> dict[str, Any]:
    """concept_accuracy and precision of images, or what `measures` names, with intervals over all they are a sample of.

    measures: name -> the column it is the mean of.
    """
    factors = sampled_factors(readings)
    return {name: crossed_mean(readings[column].to_numpy(float), factors).as_row() for name, column in measures.items()}


def choice(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any], settings: SamplingGridSettings) -> int | None:
    """Number of the row that gains most within the limits; None where none is within them."""

    def gain(row: Mapping[str, Any]) -> float:
        over_base = ("base", "independent")
        return next(float(e["gain_sd"]) for e in row["win_rates"] if (e["opponent"], e["pairing"]) == over_base)

    allowed = [
        number
        for number, row in enumerate(rows)
        if row["concept_accuracy"]["mean"] >= settings.min_concept_accuracy
        and row["precision"]["mean"] >= base["precision"]["mean"] - settings.max_precision_loss
    ]
    return max(allowed, key=lambda number: gain(rows[number]), default=None)


def _name(sampling: SamplingSettings) -> str:
    return f"{sampling.user_interval[0]:g}-{sampling.user_guidance:g}"


def _sample(settings: Settings, experiments: ExperimentSettings, layout: Layout, seed: int, folder: Path) -> None:
    log = Preferences.open(layout.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    users, weights = first_embeddings_of_users(layout), adapter_folder(settings, layout, seed)
    requests = image_requests(requests, "ppd", plan)
    for sampling in grid(settings.sampling, experiments.sampling):
        sample_once(settings, weights, requests, users, folder / f"{_name(sampling)}.parquet", sampling)
