"""How strongly to sample for a user: what each strength gains, and what it costs in content and realism.

Strength is the user guidance of `ppd.diffusion.sampling.sampler`. Measured on validation users with the headline's
adapters, sampled as trials sample, so that its row of strength 1 is also the end of the curve of win rate against
training.
"""

import json
import shutil
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
from ppd.experiments.shared_inputs import BASE, manifold
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation.truth.image_quality import precision_of
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features, read_features_of_file
from ppd.simulation.truth.utility import Tastes, judge


def write_guidance(settings: Settings, experiments: ExperimentSettings, layout: Layout, out: Path) -> None:
    """Sample with every seed's adapter at every strength, judge by the true taste, and write the JSON file `out`."""
    work = work_folder(
        layout.experiment_work / "guidance", [settings, experiments.trial], adapter_files(settings, experiments, layout)
    )
    jobs = {f"seed-{seed}": (settings, experiments, layout, seed, work / f"seed-{seed}") for seed in experiments.seeds}
    run_side_by_side(_sample, jobs, work / "logs", n_workers=experiments.n_workers)
    log = Preferences.open(layout.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    planned, tastes = comparisons_of_ppd(requests, plan, ("base", "ppd-shuffled")), Tastes.load(layout.truth)
    classifier = load_classifier(settings.models.attribute_classifier)
    base = read_features_of_file("base", layout.shared_inputs / BASE, classifier)
    clip, real = ClipScorer.from_pretrained(settings.models.clip), manifold(layout.shared_inputs)
    rows = []
    for strength in experiments.guidance:
        verdicts, concepts, precisions = [], [], []
        for seed in experiments.seeds:
            sampled, pictures = read_samples(work / f"seed-{seed}" / f"{strength:g}.parquet")
            readings = read_features("ppd", sampled, pictures, classifier)
            verdicts.append(judge(planned, pd.concat([base, readings]), tastes))
            concepts.append(float(readings.concept_right.mean()))
            precisions.append(precision_of(pictures, clip, real))
        rows.append(
            {
                "strength": strength,
                "win_rates": win_rates(pd.concat(verdicts, ignore_index=True)),
                "concept_accuracy": sum(concepts) / len(concepts),
                "precision": sum(precisions) / len(precisions),
            }
        )
    _, pictures = read_samples(layout.shared_inputs / BASE)
    costs = [file for seed in experiments.seeds if (file := adapter_folder(settings, layout, seed) / COST).exists()]
    result = {
        "seeds": list(experiments.seeds),
        "headline": {
            "steps": settings.finetune.steps,
            "pairs_per_step": settings.finetune.pairs_per_step,
            "train_cpu_s": mean_of(costs)["train_cpu_s"],
        },
        "base": {
            "concept_accuracy": float(base.concept_right.mean()),
            "precision": precision_of(pictures, clip, real),
        },
        "rows": rows,
    }
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(layout.experiment_work / "guidance")


def _sample(settings: Settings, experiments: ExperimentSettings, layout: Layout, seed: int, folder: Path) -> None:
    log = Preferences.open(layout.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    users, weights = first_embeddings_of_users(layout), adapter_folder(settings, layout, seed)
    requests = image_requests(requests, "ppd", plan)
    for strength in experiments.guidance:
        sampling = sampling_of(settings.sampling, experiments.trial).model_copy(update={"user_guidance": strength})
        sample_once(settings, weights, requests, users, folder / f"{strength:g}.parquet", sampling)
