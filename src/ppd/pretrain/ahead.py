"""Work done ahead on the CPU, so that a GPU never waits for it."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

STEPS_AHEAD = 8


def ahead(draw: Callable[[int], tuple[Tensor, ...]], device: torch.device) -> Callable[[int], tuple[Tensor, ...]]:
    """`draw` with its tensors on `device`; for a GPU, the draws of the next steps are made by threads meanwhile.

    draw: a step's random numbers, on the CPU, from the step alone; so who makes them, and when, changes nothing.
    """
    if device.type == "cpu":
        return draw
    threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="draw")
    waiting: dict[int, Future[tuple[Tensor, ...]]] = {}

    def pinned(step: int) -> tuple[Tensor, ...]:
        return tuple(tensor.pin_memory() for tensor in draw(step))

    def of(step: int) -> tuple[Tensor, ...]:
        for later in range(step, step + STEPS_AHEAD):
            if later not in waiting:
                waiting[later] = threads.submit(pinned, later)
        return tuple(tensor.to(device, non_blocking=True) for tensor in waiting.pop(step).result())

    return of


def side_processes(device: torch.device, begin: Callable[..., None], *with_: Any) -> ProcessPoolExecutor | None:
    """Processes for CPU work beside a GPU, one a core but for this one's; None where the CPU itself is what trains.

    begin(*with_) is called once in each.
    """
    if device.type == "cpu":
        return None
    n = max(1, (os.cpu_count() or 1) - 1)
    return ProcessPoolExecutor(n, mp_context=get_context("spawn"), initializer=begin, initargs=with_)
