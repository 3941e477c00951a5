"""Several jobs side by side, one thread each: on two cores two processes train more pairs than one with two threads."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ppd.progress import progress_bar


def run_side_by_side(job: Callable[..., None], jobs: Mapping[str, tuple[Any, ...]], logs: Path, n_workers: int) -> None:
    """Call `job` with each of the argument tuples in a process of its own, at most `n_workers` at a time.

    What a job prints goes to logs/NAME.log. The first failure is raised when the jobs that run have ended. Workers end
    with this process, even when it is killed. With one worker the jobs run here, one after the other.
    """
    if n_workers == 1:
        for arguments in jobs.values():
            job(*arguments)
        return
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with (
        ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, max_tasks_per_child=1) as pool,
        progress_bar() as progress,
    ):
        task = progress.add_task(logs.name, total=len(jobs))
        running = {pool.submit(_logged, job, logs / f"{name}.log", arguments): name for name, arguments in jobs.items()}
        try:
            for done in as_completed(running):
                done.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start() -> None:
    """One thread of torch, and an end when the parent ends."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # the parent was killed: whoever starts it again must not meet a second writer


def _logged(job: Callable[..., None], log: Path, arguments: tuple[Any, ...]) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
        job(*arguments)
