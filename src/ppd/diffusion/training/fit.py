"""How many pairs go through the network at once, and whether it is compiled: found by trying, before training."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from rich.console import Console

from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.model.repeated_blocks import compile_blocks, release_blocks
from ppd.errors import InputError

LARGEST = {"cpu": 32}
"""Pairs at once beyond which nothing is gained, by kind of device."""
LARGEST_ELSEWHERE = 64
HEADROOM = 0.1
"""Share of a GPU's memory that stays free: evaluation and other processes come and go."""
LOWER_IT = "Lower micro_batch_pairs, set gradient_checkpointing: true, or use precision: bf16"


def pairs_that_fit(n_pairs: int, attempt: Callable[[int], None], accelerator: Accelerator) -> int:
    """The largest power of two that divides a process' `n_pairs` a step and fits in its device's memory, with headroom.

    attempt: takes that many pairs forwards and backwards. All processes get the same answer: the smallest of theirs.
    Raises InputError where not even one pair fits.
    """
    device = accelerator.device
    size = min(n_pairs & -n_pairs, LARGEST.get(device.type, LARGEST_ELSEWHERE))
    while not _fits(size, attempt, device):
        if size == 1:
            raise InputError(f"not even one pair fits in the memory of {device}", fix=LOWER_IT)
        size //= 2
    return int(accelerator.gather(torch.tensor([size], device=device)).min())


def _fits(size: int, attempt: Callable[[int], None], device: torch.device) -> bool:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        attempt(size)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
            return False
        raise
    if not on_gpu:
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= (1 - HEADROOM) * total


def compile_if_possible(backbone: Backbone, attempt: Callable[[], None]) -> str:
    """Compile the backbone's blocks if the compiler can, and say in a word what came of it.

    attempt: a forward and a backward, so that both are compiled. Where it fails the blocks are as they were.
    """
    compile_blocks(backbone.repeated_blocks())
    try:
        attempt()
    except (torch.OutOfMemoryError, InputError):
        raise
    except Exception as error:  # noqa: BLE001 - compilers raise anything; the network's own faults come again
        release_blocks(backbone.repeated_blocks())
        reason = " ".join(f"{type(error).__name__}: {error}".splitlines()[:2])
        Console(stderr=True).print(
            f"The base's blocks could not be compiled, and training goes on without (compile: false silences this). "
            f"torch {torch.__version__} said {reason}",
            soft_wrap=True,
            markup=False,
        )
        return "failed"
    return "block by block"
