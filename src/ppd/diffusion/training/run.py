"""One fine-tuning run from start to a saved adapter, with its curve and its progress shown."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from ppd.diffusion.adapter.checkpoint import adapter_config, save_adapter
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.curve import CURVE
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.describe import describe
from ppd.diffusion.training.learned import complaint
from ppd.diffusion.training.trainer import CHECKPOINT, Trainer
from ppd.errors import DamagedFile, InputError
from ppd.files import atomic_path
from ppd.progress import progress_bar
from ppd.resumable import only_folder
from ppd.settings import FinetuneSettings, Method
from ppd.stored_tensors import load_with_metadata


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

    work: a folder outside `out_dir` that a killed run goes on from, also with settings that only move work
    (`trainer.MOVING`), and removes when it is done. What the last other run left unfinished there is kept, what older
    ones left is thrown away; both are said. origin: the fields of the adapter's config that only the caller knows
    (`embedding_rows`, `whitening`, `commit`). Of several processes only the first one shows and leaves anything.
    """
    trainer = Trainer(backbone, data, settings, method, reference_folder=reference_folder)
    is_main = trainer.accelerator.is_main_process
    unfinished = work / trainer.key
    console = Console(stderr=True, quiet=not is_main)
    if is_main:
        only_folder(work, trainer.key, keep=1)
        _set_aside_if_damaged(unfinished / CHECKPOINT, console)
        for line in _kept_runs(work, trainer):
            console.print(line, soft_wrap=True, markup=False)
    trainer.accelerator.wait_for_everyone()
    trainer.resume(unfinished)
    table = Table(show_header=False, box=None)
    for name, value in describe(trainer).items():
        table.add_row(name, value)
    console.print(table)
    with progress_bar(TextColumn("{task.fields[now]}"), console=console) as progress:
        task = progress.add_task(method, total=settings.steps, now="")
        for row in trainer.train(unfinished):
            progress.update(task, completed=row["step"] + 1, now=f"loss {row['loss']:.3f}")
            if method == "ppd" and (said := complaint(row, settings)):
                console.print(said, soft_wrap=True, markup=False, style="yellow")
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
        shutil.rmtree(unfinished)
        if not any(work.iterdir()):
            work.rmdir()
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def _set_aside_if_damaged(checkpoint: Path, console: Console) -> None:
    """A checkpoint that is not as it was written helps nobody: it gets another name, and training starts over."""
    if not checkpoint.exists():
        return
    try:
        load_with_metadata(checkpoint)
    except DamagedFile as error:
        aside = checkpoint.with_suffix(".damaged")
        checkpoint.replace(aside)
        console.print(f"{error}\nIt is {aside} now; training starts over.", soft_wrap=True, markup=False)


def _kept_runs(work: Path, trainer: Trainer) -> Iterator[str]:
    """A line for each other run's checkpoint: how far it is, and in what it differs."""
    for checkpoint in sorted(work.glob(f"*/{CHECKPOINT}")):
        if checkpoint.parent.name == trainer.key:
            continue
        try:
            metadata = load_with_metadata(checkpoint)[1]
            theirs, ours = json.loads(metadata["run"]), json.loads(trainer.run_id())
            differs = [
                f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here"
                for name in sorted({*theirs, *ours})
                if theirs.get(name) != ours.get(name)
            ]
            yield (
                f"{checkpoint}: another run stopped at step {metadata['step']} and is kept; it goes on with its own "
                f"settings again ({'; '.join(differs)})"
            )
        except (InputError, ValueError, KeyError):
            yield f"{checkpoint}: another run's checkpoint, which cannot be read"
