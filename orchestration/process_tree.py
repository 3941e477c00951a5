"""A command whose every process can be ended, those with sessions of their own included.

A launcher such as torchrun starts its workers in sessions of their own, so no process group holds them all. But what a
process starts inherits its environment: the mark put there finds them. Between the one who asks and the command stands
this file as a program: it ends the command with all that it started when the asker lets go of its input or dies, be it
by SIGKILL. It imports nothing of Dagster or DVC, so that it costs little.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import psutil

MARK = "PPD_PROCESS_TREE"
GRACE_S = 5.0
"""Between asking processes to end and ending them."""
_LOOK_EVERY_S = 0.1
_WATCH_EVERY_S = 1.0


def supervised(mark: str, command: Sequence[str], lifeline: int | None) -> list[str]:
    """The command line that runs `command` under this file. `lifeline`: a process without which it has to end too."""
    return [sys.executable, __file__, mark, str(lifeline or 0), *command]


def end_tree(mark: str, grace_s: float = GRACE_S) -> None:
    """End every process that carries `mark` and all that these started: SIGTERM, and SIGKILL after a while."""
    asked: set[psutil.Process] = set()
    deadline = time.monotonic() + grace_s
    while alive := list(_members(mark)):
        kill = time.monotonic() > deadline
        for process in alive:
            if kill or process not in asked:
                asked.add(process)
                _send(process, signal.SIGKILL if kill else signal.SIGTERM)
        time.sleep(_LOOK_EVERY_S)


def _members(mark: str) -> Iterator[psutil.Process]:
    """Every live process with the mark but this one and those that it came from, and their descendants."""
    own = psutil.Process()
    spared = {own, *own.parents()}
    seen: set[psutil.Process] = set()
    for process in psutil.process_iter():
        if _carries(process, mark):
            for each in (process, *_descendants(process)):
                if each not in spared and each not in seen and _runs(each):
                    seen.add(each)
                    yield each


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # of somebody else, or gone
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):  # gone meanwhile
        process.send_signal(number)


def _supervise(mark: str, lifeline: int, command: Sequence[str]) -> int:
    """Run `command` to its end, or until standard input or the lifeline ends; leave nothing of it behind."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | {MARK: mark})
    let_go = threading.Event()

    def listen() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
        let_go.set()

    threading.Thread(target=listen, daemon=True).start()
    owner = psutil.Process(lifeline) if lifeline and psutil.pid_exists(lifeline) else None
    watched = time.monotonic()
    try:
        while process.poll() is None and not let_go.wait(_LOOK_EVERY_S):
            if owner and time.monotonic() - watched > _WATCH_EVERY_S:
                watched = time.monotonic()
                if not (owner.is_running() and _runs(owner)):
                    break
    finally:
        end_tree(mark)
    return process.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # through `finally`
    code = _supervise(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)
