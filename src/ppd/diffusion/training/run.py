"""One fine-tuning run from start to a saved adapter, with its curve and its progress shown."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from ppd.diffusion.adapter.checkpoint import adapter_config, save_adapter
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.curve import CURVE
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.files import atomic_path
from ppd.progress import progress_bar
from ppd.resumable import only_folder
from ppd.settings import FinetuneSettings, Method


def finetune(
    backbone: Backbone,
    data: TrainingData,
    settings: FinetuneSettings,
    method: Method,
    out_dir: Path,
    work: Path,
    *,
    reference_folder: Path | None = None,
    origin: Mapping[str, Any],
) -> None:
    """Train `method` and leave adapter.safetensors, config.json and curve.csv in `out_dir`.

    work: a folder outside `out_dir` that a killed run goes on from. What other runs left there is thrown away, and so
    is this run's when it is done. origin: the fields of the adapter's config that only the caller knows
    (`embedding_rows`, `whitening`, `commit`). Of several processes only the first one shows and leaves anything.
    """
    trainer = Trainer(backbone, data, settings, method, reference_folder=reference_folder)
    is_main = trainer.accelerator.is_main_process
    unfinished = only_folder(work, trainer.key) if is_main else work / trainer.key
    console = Console(stderr=True, quiet=not is_main)
    table = Table(show_header=False, box=None)
    for name, value in trainer.describe().items():
        table.add_row(name, value)
    console.print(table)
    with progress_bar(TextColumn("{task.fields[now]}"), console=console) as progress:
        task = progress.add_task(method, total=settings.steps, now="")
        for row in trainer.train(unfinished):
            progress.update(task, completed=row["step"] + 1, now=f"loss {row['loss']:.3f}")
    config = adapter_config(
        trainer.adapter,
        backbone,
        method,
        training=settings.model_dump(mode="json"),
        data_hash=data.content_hash,
        **origin,
    )
    trainer.adapter.detach()
    if is_main:
        with atomic_path(out_dir) as fresh:
            save_adapter(fresh, trainer.final_weights(), config)
            (fresh / CURVE).write_bytes((unfinished / CURVE).read_bytes())
        shutil.rmtree(work)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
