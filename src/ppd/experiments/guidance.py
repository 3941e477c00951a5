"""How strongly to draw for a person: what each strength gains, and what it costs in content and realism.

Strength is the user guidance of `ppd.diffusion.sampling.sampler`. Measured on validation people with the headline's adapters,
drawn as trials draw, so that its row of strength 1 is also the end of the curve of win rate against training.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import torch

from ppd.diffusion.adapter.checkpoint import load_adapter, read_config
from ppd.diffusion.sampling.store import draw, read_samples
from ppd.evaluation.plan import image_requests
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.ablation import mean_of
from ppd.experiments.models import base_model
from ppd.experiments.paths import Paths
from ppd.experiments.plan import comparisons_of_ppd, requests_of, sampling_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import COST, adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.shared_inputs import BASE, manifold
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.readings import read_features
from ppd.simulation.truth.utility import Tastes, judge
from ppd.statistics.precision import precision
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening


def write_guidance(settings: Settings, experiments: ExperimentSettings, paths: Paths, out: Path) -> None:
    """Draw with every seed's adapter at every strength, judge by the true taste, and write the JSON file `out`."""
    work = work_for(paths.work / "guidance", [settings, experiments.trial], adapter_files(settings, experiments, paths))
    jobs = {f"seed-{seed}": (settings, experiments, paths, seed, work / f"seed-{seed}") for seed in experiments.seeds}
    run_side_by_side(_draw, jobs, work / "logs", n_workers=experiments.n_workers)
    log = Preferences.open(paths.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    planned, tastes = comparisons_of_ppd(requests, plan, ("base", "ppd-shuffled")), Tastes.load(paths.truth)
    reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
    base = read_features("base", *read_samples(paths.shared_inputs / BASE), reader)
    clip, real = ClipScorer.from_pretrained(settings.models.clip), manifold(paths.shared_inputs)
    rows = []
    for strength in experiments.guidance:
        verdicts, concepts, precisions = [], [], []
        for seed in experiments.seeds:
            wishes, pictures = read_samples(work / f"seed-{seed}" / f"{strength:g}.parquet")
            drawn = read_features("ppd", wishes, pictures, reader)
            verdicts.append(judge(planned, pd.concat([base, drawn]), tastes))
            concepts.append(float(drawn.concept_right.mean()))
            precisions.append(precision(torch.as_tensor(clip.embed_images(pictures)), real))
        rows.append(
            {
                "strength": strength,
                "win_rates": win_rates(pd.concat(verdicts, ignore_index=True)),
                "concept_accuracy": sum(concepts) / len(concepts),
                "precision": sum(precisions) / len(precisions),
            }
        )
    _, pictures = read_samples(paths.shared_inputs / BASE)
    costs = [file for seed in experiments.seeds if (file := adapter_folder(settings, paths, seed) / COST).exists()]
    result = {
        "seeds": list(experiments.seeds),
        "headline": {
            "steps": settings.finetune.steps,
            "pairs_per_step": settings.finetune.pairs_per_step,
            "train_cpu_s": mean_of(costs)["train_cpu_s"],
        },
        "base": {
            "concept_accuracy": float(base.concept_right.mean()),
            "precision": precision(torch.as_tensor(clip.embed_images(pictures)), real),
        },
        "rows": rows,
    }
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(paths.work / "guidance")


def _draw(settings: Settings, experiments: ExperimentSettings, paths: Paths, seed: int, folder: Path) -> None:
    log = Preferences.open(paths.preferences)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    people = {user: u[0] for user, u in whitened(load_embeddings(paths.users), Whitening.load(paths.whitening)).items()}
    backbone = base_model(settings, settings.sampling.precision)
    weights = adapter_folder(settings, paths, seed)
    adapter, identity = load_adapter(weights, backbone), read_config(weights).model_dump_json()
    wanted = image_requests(requests, "ppd", plan)
    for strength in experiments.guidance:
        sampling = sampling_of(settings.sampling, experiments.trial).model_copy(update={"user_guidance": strength})
        file = folder / f"{strength:g}.parquet"
        if not file.exists():
            draw(wanted, backbone, sampling, file, adapter=adapter, people=people, identity=identity)
