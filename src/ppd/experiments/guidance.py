"""How strongly to sample for a user: what each strength gains, and what it costs in content and realism.

Strength is the user guidance of `ppd.diffusion.sampling.sampler`. Measured on validation users with the headline's
adapters, sampled as trials sample, so that its row of strength 1 is also the end of the curve of win rate against
training.
"""

from pathlib import Path

import pandas as pd

from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import image_requests
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.ablation import mean_of
from ppd.experiments.models import first_embeddings_of_users, sample_once
from ppd.experiments.plan import comparisons_of_ppd, requests_of, sampling_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import COST, adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.shared_inputs import BASE, ImageMeasures
from ppd.files import read_json, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.simulation.truth.utility import Tastes, judge


def write_guidance(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Sample with every seed's adapter at every strength, judge by the true taste, and write the result."""
    weights = adapter_files(settings, experiments, layout)
    with resumable(layout.experiment_work / "guidance", [settings, experiments.trial], weights) as work:
        folders = {seed: work / f"seed-{seed}" for seed in experiments.seeds}
        jobs = {f"seed-{seed}": (settings, experiments, layout, seed, folder) for seed, folder in folders.items()}
        run_side_by_side(_sample, jobs, work / "logs", n_workers=experiments.n_workers)
        log = Preferences.open(layout.preferences)
        requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
        planned, tastes = comparisons_of_ppd(requests, plan, ("base", "ppd-shuffled")), Tastes.load(layout.truth)
        measures = ImageMeasures.load(settings, layout)
        base, at_base = measures("base", *read_samples(layout.shared_inputs / BASE))
        rows = []
        for strength in experiments.guidance:
            sampled = [measures("ppd", *read_samples(folder / f"{strength:g}.parquet")) for folder in folders.values()]
            verdicts = [judge(planned, pd.concat([base, readings]), tastes) for readings, _ in sampled]
            rates = win_rates(pd.concat(verdicts, ignore_index=True))
            rows.append({"strength": strength, "win_rates": rates, **mean_of([measured for _, measured in sampled])})
        costs = [adapter_folder(settings, layout, seed) / COST for seed in experiments.seeds]
        headline = {"steps": settings.finetune.steps, "pairs_per_step": settings.finetune.pairs_per_step}
        result = {
            "seeds": list(experiments.seeds),
            "headline": headline | mean_of([read_json(file) for file in costs if file.exists()]),
            "base": at_base,
            "rows": rows,
        }
        write_json(layout.experiment_results / "guidance.json", result)


def _sample(settings: Settings, experiments: ExperimentSettings, layout: Layout, seed: int, folder: Path) -> None:
    log = Preferences.open(layout.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    users, weights = first_embeddings_of_users(layout), adapter_folder(settings, layout, seed)
    requests = image_requests(requests, "ppd", plan)
    for strength in experiments.guidance:
        sampling = sampling_of(settings.sampling, experiments.trial).model_copy(update={"user_guidance": strength})
        sample_once(settings, weights, requests, users, folder / f"{strength:g}.parquet", sampling)
