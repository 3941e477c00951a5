"""The headline run again with other seeds, at full length: how much of a result is the luck of one training."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ppd.diffusion.adapter.checkpoint import WEIGHTS
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.run import finetune
from ppd.experiments.models import base_model, user_embeddings
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.users.whitening import Whitening

COST = "cost.json"


def train_seeds(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Train ppd with each of the seeds as the pipeline does, side by side; seed-N is like models/ppd.

    The pipeline's own seed is left out. A killed run goes on.
    """
    others = [seed for seed in experiments.seeds if seed != settings.finetune.seed]
    inputs = [layout.preferences / "pairs.parquet", *layout.shard_files()]
    with resumable(layout.experiment_work / "seeds", [settings.finetune], inputs) as work:
        jobs = {
            f"seed-{seed}": (changed(settings, {"finetune": {"seed": seed}}), layout, work / f"seed-{seed}")
            for seed in others
            if not (work / f"seed-{seed}" / COST).exists()
        }
        run_side_by_side(_train, jobs, work / "logs", n_workers=experiments.n_workers)
        with atomic_path(layout.seeds) as fresh:
            fresh.mkdir()
            for seed in others:
                shutil.copytree(work / f"seed-{seed}" / "adapter", fresh / f"seed-{seed}")
                shutil.copy(work / f"seed-{seed}" / COST, fresh / f"seed-{seed}" / COST)


def adapter_folder(settings: Settings, layout: Layout, seed: int) -> Path:
    """Where the headline run with this seed is: the pipeline made one of them."""
    return layout.models / "ppd" if seed == settings.finetune.seed else layout.seeds / f"seed-{seed}"


def adapter_files(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> list[Path]:
    """The weights of the headline runs with every seed, and the whitening and embeddings that they read."""
    weights = [adapter_folder(settings, layout, seed) / WEIGHTS for seed in experiments.seeds]
    return [*weights, layout.whitening, *layout.shard_files()]


def _train(settings: Settings, layout: Layout, folder: Path) -> None:
    train_once(settings, layout, user_embeddings(layout), folder)


def train_once(settings: Settings, layout: Layout, embeddings: Mapping[str, Tensor], folder: Path) -> None:
    """Train ppd at full length with these embeddings, unless it was: folder/adapter, and what it cost."""
    if (folder / COST).exists():
        return
    data = training_data(Preferences.open(layout.preferences), Encoded.open(layout.latents), embeddings)
    backbone = base_model(settings, settings.finetune.precision)
    started = time.process_time()
    finetune(
        backbone,
        data,
        settings.finetune,
        "ppd",
        folder / "adapter",
        folder / "unfinished",
        reference_folder=layout.reference_errors,
        origin={"whitening": Whitening.load(layout.whitening).name},
    )
    write_json(folder / COST, {"train_cpu_s": round(time.process_time() - started, 1)})
