"""What a run's settings amount to, said before it begins."""

import time

import torch

from ppd.diffusion.training.dataset import steps_per_cycle
from ppd.diffusion.training.fit import LOWER_IT
from ppd.diffusion.training.trainer import Trainer
from ppd.errors import InputError
from ppd.stage_times import peak_mib


def describe(trainer: Trainer) -> dict[str, str]:
    """What the settings amount to, to be read before a long run. Tries a micro-batch; trains nothing.

    Raises InputError if a micro-batch does not fit in the device's memory.
    """
    s, n_pairs = trainer.settings, len(trainer.data.train)
    at_once = trainer.micro_batch_pairs
    accumulated = s.pairs_per_step // at_once // trainer.n_processes
    found = ", as many as fit" if s.micro_batch_pairs == "auto" else ""
    seconds, peak_gb = _try_micro_batch(trainer)
    trained = sum(weight.numel() for weight in trainer.adapter.parameters())
    lora = trainer.adapter.lora
    low_rank = "" if lora is None else f" and in {len(lora.layers)} linear layers at rank {lora.settings.rank}"
    return {
        "method": trainer.method,
        "base": f"{trainer.backbone.base_id} ({trainer.backbone.fingerprint}), {_computed_in(trainer)}",
        "trained parameters": f"{trained:,} beside {len(trainer.adapter.blocks)} attention blocks{low_rank}",
        "pairs a step": f"{s.pairs_per_step} = {at_once} at once{found} x {accumulated} accumulated "
        f"x {trainer.n_processes} processes",
        "compiled": trainer.compiled,
        "steps": f"{s.steps} from {trainer.step}: {s.steps * s.pairs_per_step / n_pairs:.2f} epochs of {n_pairs:,} "
        f"pairs; draws repeat after {steps_per_cycle(n_pairs, s)} steps",
        "beta": f"{s.loss.beta:g}, times half the margin of mean squared errors of the base's own target",
        "process": trainer.backbone.process.name,
        "peak memory": f"{peak_gb:.1f} GB",
        "estimated time": f"{seconds * accumulated * (s.steps - trainer.step) / 60:.1f} min",
    }


def _computed_in(trainer: Trainer) -> str:
    wanted, dtype = trainer.settings.precision, next(trainer.backbone.network.parameters()).dtype
    return "fp32, as this CPU has no instructions for bf16" if (wanted, dtype) == ("bf16", torch.float32) else wanted


def _try_micro_batch(trainer: Trainer) -> tuple[float, float]:
    """Seconds that one micro-batch takes once warm, and the process' peak memory on the device in GB."""
    try:
        trainer.attempt(trainer.micro_batch_pairs)
        start = time.perf_counter()
        trainer.attempt(trainer.micro_batch_pairs)
    except torch.OutOfMemoryError as error:
        where = f"in the memory of {trainer.backbone.device}"
        message = f"one micro-batch of {trainer.micro_batch_pairs} pairs does not fit {where}"
        raise InputError(message, fix=LOWER_IT) from error
    seconds = time.perf_counter() - start
    if trainer.backbone.device.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(trainer.backbone.device) / 1e9
    return seconds, peak_mib() * (1 << 20) / 1e9
