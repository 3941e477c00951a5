"""The headline run again with other seeds, at full length: how much of a result is the luck of one training."""

import json
import shutil
import time
from pathlib import Path

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.encoding.encode import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.run import finetune
from ppd.experiments.models import base_model
from ppd.experiments.paths import Paths
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening

COST = "cost.json"


def train_seeds(settings: Settings, experiments: ExperimentSettings, paths: Paths) -> None:
    """Train ppd with each of the seeds as the pipeline does, side by side; seed-N is like models/ppd.

    The pipeline's own seed is left out. A killed run goes on.
    """
    others = [seed for seed in experiments.seeds if seed != settings.finetune.seed]
    work = work_for(paths.work / "seeds", [settings.finetune], [paths.preferences / "pairs.parquet", *paths.users])
    jobs = {
        f"seed-{seed}": (changed(settings, {"finetune": {"seed": seed}}), paths, work / f"seed-{seed}")
        for seed in others
        if not (work / f"seed-{seed}" / COST).exists()
    }
    run_side_by_side(_train, jobs, work / "logs", n_workers=experiments.n_workers)
    with atomic_path(paths.seeds) as fresh:
        fresh.mkdir()
        for seed in others:
            shutil.copytree(work / f"seed-{seed}" / "adapter", fresh / f"seed-{seed}")
            shutil.copy(work / f"seed-{seed}" / COST, fresh / f"seed-{seed}" / COST)
    shutil.rmtree(paths.work / "seeds")


def adapter_folder(settings: Settings, paths: Paths, seed: int) -> Path:
    """Where the headline run with this seed is: the pipeline made one of them."""
    return paths.models / "ppd" if seed == settings.finetune.seed else paths.seeds / f"seed-{seed}"


def adapter_files(settings: Settings, experiments: ExperimentSettings, paths: Paths) -> list[Path]:
    """The weights of the headline runs with every seed, and the whitening and embeddings that they read."""
    weights = [adapter_folder(settings, paths, seed) / WEIGHTS for seed in experiments.seeds]
    return [*weights, paths.whitening, *paths.users]


def _train(settings: Settings, paths: Paths, folder: Path) -> None:
    whitening = Whitening.load(paths.whitening)
    embeddings = whitened(load_embeddings(paths.users), whitening)
    data = training_data(Preferences.open(paths.preferences), Encoded.open(paths.latents), embeddings)
    backbone = base_model(settings, settings.finetune.precision)
    started = time.process_time()
    finetune(
        backbone,
        data,
        settings.finetune,
        "ppd",
        folder / "adapter",
        folder / "unfinished",
        reference_folder=paths.reference,
        origin={"whitening": whitening.name},
    )
    with atomic_path(folder / COST) as fresh:
        fresh.write_text(json.dumps({"train_cpu_s": round(time.process_time() - started, 1)}))
