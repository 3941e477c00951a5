"""Work that several processes share: fixed units, each a file; who makes which changes no byte of them.

A unit is what one process alone would do in one go (some batches, a user's comparisons). Processes meet in the folder
of the units, on one machine or on a disk that several machines share, and the first one puts them together. A killed
run goes on with the units that are there, in however many processes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from ppd.errors import DamagedFile
from ppd.progress import progress_bar

_LONGEST_WAIT = timedelta(days=30)
"""The first process waits for the others' units as long as that takes; whoever started them all ends them all if one
fails."""


@dataclass(frozen=True)
class Part:
    """Which of the processes that share a stage's work this is: `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that talks, and that puts units together."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Go on when all processes have come here. Raises RuntimeError where another one is gone."""
        if self.count == 1:
            return
        import torch.distributed as dist

        if not dist.is_initialized():
            # gloo, whatever the device: only words are exchanged, and nobody gives up on a slow neighbour.
            dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
        dist.barrier()


def this_part() -> Part:
    """As torchrun, srun with torchrun, accelerate and `ppd.launch` tell it in the environment; alone if nobody does."""
    return Part(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def here() -> Part:
    """Which of the processes of this machine this is."""
    return Part(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share(
    units: Sequence[Path],
    sizes: Sequence[int],
    make: Callable[[int], None],
    *,
    label: str,
    check: Callable[[Path], object],
) -> bool:
    """Have every file of `units` made by one of the processes; True in the first one, where all are there afterwards.

    make: called with a unit's number, writes its file whole or not at all. check: raises DamagedFile for one that a
    killed run left and that is not as it was written; it is made again. sizes: how many things each unit holds, for the
    progress that is shown.
    """
    part = this_part()
    missing = [number for number, unit in enumerate(units) if not _is_whole(unit, check, part)]
    part.wait_for_all()  # before anybody makes one: all have to see the same ones missing
    console = Console(stderr=True, quiet=not part.is_first)
    n_made = 0
    with progress_bar(console=console) as progress:
        words = label if part.count == 1 else f"{label}, {part.count} processes"
        task = progress.add_task(words, total=sum(sizes), completed=sum(sizes) - sum(sizes[n] for n in missing))
        for number in missing[part.rank :: part.count]:
            make(number)
            n_made += 1
            if part.is_first:  # the others are about as far
                done = missing[: n_made * part.count]
                progress.update(task, completed=sum(sizes) - sum(sizes[n] for n in missing[len(done) :]))
        part.wait_for_all()
    return part.is_first


def _is_whole(unit: Path, check: Callable[[Path], object], part: Part) -> bool:
    if not unit.exists():
        return False
    try:
        check(unit)
    except DamagedFile as error:
        if part.is_first:
            Console(stderr=True).print(f"{error}\nIt is made again.", soft_wrap=True, markup=False)
        return False
    return True
