"""Running DVC, and other commands, as processes that can be stopped with everything that they started."""

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dvc.lock import LockError

from orchestration.dvc_lock import mend
from orchestration.process_tree import GRACE_S, end_tree, supervised

Outcome = Literal["ran", "cached", "skipped"]
"""ran: the command ran; cached: DVC took the result of an earlier run with the same inputs; skipped: nothing to do."""

# How DVC says what it does with a stage: text before its name -> outcome.
_SAYS: Mapping[str, Outcome] = {"Running stage '": "ran", "Stage '": "skipped"}
# How DVC says that another process has the same paths: after it come the holders, a line each.
_BUSY, _HOLDER = "is busy, it is being blocked by", "  (PID "
# How DVC says that it cannot read one of its own files, which it does not write at once: a kill has torn it.
_TORN = re.compile(r"Unable to read RWLock-file|dvc\.lock' (validation failed|is invalid)")
_PROGRAM = re.compile(r"\S+/dvc(/__main__\.py)?(?= )")

BUSY_LIMIT_S = 24 * 3600.0
"""So long a run waits for another one that has the same paths, such as a training in a shell."""
BUSY_POLL_S = (1.0, 20.0)
"""Between two attempts: at first, and at most."""


class Failed(Exception):
    """A process ended with an error; the last lines of its output say which."""


@dataclass
class _Reader:
    """Passes DVC's output on and learns from it what happened to each stage, and who holds what it needs."""

    log: Callable[[str], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    busy: str = ""
    holders: list[str] = field(default_factory=list)
    torn: bool = False

    def take(self, line: str) -> None:
        for start, outcome in _SAYS.items():
            if line.startswith(start):
                address, _, rest = line.removeprefix(start).partition("'")
                self.outcomes[address] = "cached" if "is cached" in rest else outcome
        self.torn = self.torn or _TORN.search(line) is not None
        if _BUSY in line:
            self.busy = line.partition(_BUSY)[0].rpartition("ERROR: ")[2].strip()
        elif self.busy:
            self.holders += [_PROGRAM.sub("dvc", line.strip())] if line.startswith(_HOLDER) else []
        else:
            self.log(line)


def repro(
    root: Path, addresses: Sequence[str], log: Callable[[str], None], *, force: bool = False
) -> dict[str, Outcome]:
    """Bring these items, and nothing that they depend on, up to date: `dvc repro --single-item`.

    Every line of output goes to `log`. Returns what happened to each item. Raises Failed. On any other exception,
    such as a cancelled run, everything that was started is ended before it goes on: DVC by itself would leave the
    stage running.
    """
    command = ["repro", "--single-item", *(["--force"] if force else [])]
    return _patiently(root, command, addresses, log)


def run(root: Path, arguments: Sequence[str], log: Callable[[str], None]) -> None:
    """Any DVC command, as `repro` describes."""
    _patiently(root, arguments, (), log)


def _patiently(
    root: Path, command: Sequence[str], addresses: Sequence[str], log: Callable[[str], None]
) -> dict[str, Outcome]:
    """Run DVC; while another process has the same paths, say who, wait, and try again what is not done yet.

    DVC waits for its own lock (`--wait-for-lock`) but not for those of paths, which it holds while a stage runs. Files
    of its own that a kill has torn are made whole.
    """
    done: dict[str, Outcome] = {}
    deadline, pause, reported = time.monotonic() + BUSY_LIMIT_S, BUSY_POLL_S[0], ""
    mended = False
    while True:
        left = [address for address in addresses if address not in done]
        reader = _Reader(log)
        try:
            run_group([sys.executable, "-m", "dvc", "--wait-for-lock", *command, *left], root, reader.take)
        except Failed as failure:
            done |= reader.outcomes
            if reader.busy:
                blocked = f"{reader.busy} is in use by {'; '.join(dict.fromkeys(reader.holders)) or 'another process'}"
            elif reader.torn and not mended:
                try:
                    for sentence in mend(root):
                        log(sentence)
                    mended = True
                    continue
                except LockError as lock:
                    blocked = str(lock)
            else:
                raise
            if time.monotonic() > deadline:
                raise Failed(
                    f"{blocked}, and has been for {BUSY_LIMIT_S / 3600:g} h. End it, or run this again."
                ) from failure
            if blocked != reported:
                log(f"{blocked}: waiting for it, up to {BUSY_LIMIT_S / 3600:g} h.")
                reported = blocked
            time.sleep(pause)
            pause = min(2 * pause, BUSY_POLL_S[1])
        else:
            return done | reader.outcomes


def run_group(command: Sequence[str], root: Path, take: Callable[[str], None]) -> None:
    """Run `command` and pass each line of its output to `take`; nothing that it started outlives it.

    Raises Failed with the last lines when it fails. On any other exception, and when this process or the run that it
    belongs to is killed, all of it is ended first.
    """
    here = Path(sys.executable).parent  # where the `ppd` of this environment is
    mark = uuid.uuid4().hex
    run_worker = multiprocessing.parent_process()  # of a step of a run; None elsewhere
    process = subprocess.Popen(
        supervised(mark, command, run_worker.pid if run_worker else None),
        cwd=root,
        env=os.environ | {"PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
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
        _end(process, mark)
        raise
    if code != 0:
        end_tree(mark)  # the supervisor did, unless it was killed itself
        raise Failed(f"{' '.join(command)} ended with exit code {code}:\n" + "\n".join(tail))


def _end(process: subprocess.Popen[str], mark: str) -> None:
    """Let go of the supervisor, which ends all; if it does not, do it here."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2 * GRACE_S)
    end_tree(mark)
    process.kill()
    process.wait()
