"""Running DVC, and other commands, as processes that can be stopped with everything that they started."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["ran", "cached", "skipped"]
"""ran: the command ran; cached: DVC took the result of an earlier run with the same inputs; skipped: nothing to do."""

# How DVC says what it does with a stage: text before its name -> outcome.
_SAYS: Mapping[str, Outcome] = {"Running stage '": "ran", "Stage '": "skipped"}


class Failed(Exception):
    """A process ended with an error; the last lines of its output say which."""


@dataclass
class _Reader:
    """Passes DVC's output on and learns from it what happened to each stage."""

    log: Callable[[str], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def take(self, line: str) -> None:
        self.log(line)
        for start, outcome in _SAYS.items():
            if line.startswith(start):
                address, _, rest = line.removeprefix(start).partition("'")
                self.outcomes[address] = "cached" if "is cached" in rest else outcome


def repro(
    root: Path, addresses: Sequence[str], log: Callable[[str], None], *, force: bool = False
) -> dict[str, Outcome]:
    """Bring these items, and nothing that they depend on, up to date: `dvc repro --single-item`.

    Every line of output goes to `log`. Returns what happened to each item. Raises Failed. On any other exception,
    such as a cancelled run, the whole process group is ended before it goes on: DVC by itself would leave the stage
    running.
    """
    command = ["repro", "--single-item", *(["--force"] if force else []), *addresses]
    return run(root, command, log)


def run(root: Path, arguments: Sequence[str], log: Callable[[str], None]) -> dict[str, Outcome]:
    """Any DVC command, as `repro` describes. It waits for its turn when another one holds DVC's lock."""
    reader = _Reader(log)
    run_group([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], root, reader.take)
    return reader.outcomes


def run_group(command: Sequence[str], root: Path, take: Callable[[str], None]) -> None:
    """Run `command` in a process group of its own and pass each line of its output to `take`.

    Raises Failed with the last lines when it fails; on any other exception the whole group is ended first.
    """
    here = Path(sys.executable).parent  # where the `ppd` of this environment is
    process = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=20)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            take(tail[-1])
        code = process.wait()
    except BaseException:
        _end_group(process)
        raise
    if code != 0:
        raise Failed(f"{' '.join(command)} ended with exit code {code}:\n" + "\n".join(tail))


def _end_group(process: subprocess.Popen[str], grace_s: float = 5.0) -> None:
    """SIGTERM to DVC and to all that it started; SIGKILL to what is still there after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        os.killpg(process.pid, signal.SIGKILL)  # DVC may be gone while a stage that ignores SIGTERM is not
    process.wait()
