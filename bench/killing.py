"""Running a command that is killed with its process group, and seeing what it leaves behind."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

File = tuple[int, int]
"""Inode and time of the last change in ns: another one where a file was made again."""
PATIENCE_S = 30.0
"""So long what a killed command has started may take to end: a supervisor asks first, and kills after 5 s."""


@dataclass(frozen=True)
class Ran:
    """What one run came to; `seconds` of wall time. started: the processes that there were when it was killed."""

    seconds: float
    finished: bool
    started: tuple[psutil.Process, ...] = ()


def run(command: Sequence[str], folder: Path, log: Path, kill_after_s: float | None = None, **environment: str) -> Ran:
    """Run it to its end, or kill its process group with SIGKILL after a while; SystemExit where it fails by itself.

    What it has started in sessions of its own is not killed: it has to notice.
    """
    began = time.monotonic()
    with log.open("a") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            started = tuple(psutil.Process(process.pid).children(recursive=True))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Ran(time.monotonic() - began, False, started)
    if code:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return Ran(time.monotonic() - began, True)


def outlived(started: Sequence[psutil.Process], patience_s: float = PATIENCE_S) -> int:
    """How many of the processes of a killed command live on after a while."""
    deadline = time.monotonic() + patience_s
    while (living := sum(map(_lives, started))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return living


def files_below(folder: Path) -> dict[str, File]:
    """Every finished file, by its path in `folder`; what is half written is in folders whose names begin with a dot."""
    found = {}
    for file in folder.rglob("*"):
        inside = file.relative_to(folder)
        if file.is_file() and not file.is_symlink() and not any(part.startswith(".") for part in inside.parts):
            now = file.stat()
            found[str(inside)] = (now.st_ino, now.st_mtime_ns)
    return found


def made_again(before: Mapping[str, File], after: Mapping[str, File]) -> list[str]:
    """Files that were there before a kill and are there after it, but were written in between."""
    return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
