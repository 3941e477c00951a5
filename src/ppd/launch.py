"""How a stage's processes are started: here one a GPU or one a core, elsewhere by a command of a cluster's.

The command line calls `run_shared`; whatever runs in the processes asks `ppd.parts` which of them it is.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

from ppd.errors import InputError
from ppd.settings import Settings

MOST_ON_CPUS = 8
"""Processes that `auto` starts on a CPU at most: each loads the models."""
TRAINING_ON_CPUS = 2
"""Processes that `auto` trains in on a CPU, however many cores there are: the last digits of a training depend on their
number, so it is the same everywhere. One core is enough to run them."""
PARENT = "PPD_PARENT"
"""The variable that tells a stage the process id without which it must not live."""
_WATCHED = "PPD_ENDS_WITH_STDIN"
_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.5
ON_CPUS = {
    # A core each: waiting threads of one would take the time of another.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc would give each large tensor back to the kernel, and get the next a page at a time: a seventh of a forward.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}
"""What processes beside each other are told where there is no accelerator, unless the environment says otherwise."""
_GPU_DEVICES = ("nvidiactl", "kfd", "dxg", "accel")
"""What one of the drivers that torch knows leaves in /dev: without any, nobody has to wait for torch to look."""


def run_shared(stage: str, settings: Settings, arguments: Sequence[str]) -> int | None:
    """Run `ppd` with these arguments in as many processes as the settings want of this stage; their exit status.

    None where this process itself is to do the work: it is one of several already, or the only one.
    """
    end_with_parent()
    if "RANK" in os.environ or not (n := n_processes(stage, settings)):
        return None
    if settings.launch.command is not None:
        return _run_command(shlex.split(settings.launch.command), arguments)
    if n == 1:
        if not accelerators():
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # as where several share the work: the same bytes
        return None
    return run_processes([sys.executable, "-c", "from ppd.cli import main; main()", *arguments], n)


def n_processes(stage: str, settings: Settings) -> int:
    """How many processes do this stage on this machine; 0 for a stage that is never shared."""
    if stage == "finetune":
        wanted = settings.launch.training
        return wanted if wanted != "auto" else accelerators() or TRAINING_ON_CPUS
    shared = {
        "encode": True,
        "embed": True,
        "sample": True,
        "judge": settings.judge.server is None,
        "report": bool(settings.rewards),
    }
    if not shared.get(stage):
        return 0
    wanted = settings.launch.processes
    return wanted if wanted != "auto" else accelerators() or min(cores(), MOST_ON_CPUS)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def accelerators() -> int:
    """How many devices torch sees beside the CPU. Imports torch only where there may be one."""
    if version("torch").endswith("+cpu"):
        return 0
    if sys.platform == "linux" and not any(Path("/dev", name).exists() for name in _GPU_DEVICES):
        return 0
    import torch

    return torch.accelerator.device_count()


def run_processes(command: Sequence[str], n: int) -> int:
    """Run a command in `n` processes of this machine that know of each other; 0, or the status of the first to fail.

    If one fails, the others are ended. What others than the first say is shown if they are the ones who fail. All end
    with this process, even when it is killed.
    """
    together = {
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        _WATCHED: "1",
    }
    environment = ({} if accelerators() else ON_CPUS) | dict(os.environ) | together
    with ExitStack() as stack:
        said: list[IO[bytes] | None] = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in range(n - 1))]
        processes = [
            subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=said[rank],
            )
            for rank in range(n)
        ]
        try:
            failed = _first_to_fail(processes)
        finally:
            _end(processes)
        if failed is None:
            return 0
        if (words := said[failed]) is not None:
            words.seek(0)
            sys.stderr.write(words.read().decode(errors="replace"))
        status = processes[failed].returncode
        return status if status > 0 else 128 - status


def end_with_parent() -> None:
    """End when whoever started this process is gone, even by a kill, so that nobody meets a second writer afterwards.

    That is `run_processes`, a re-evaluation (`PARENT`), or DVC, which starts its stages as its own children. What was
    started by hand lives on.
    """
    parent = os.environ.pop(PARENT, None)
    if os.environ.pop(_WATCHED, None) is not None:
        waiting: Callable[[], None] = _stdin_ends
    elif parent or "DVC_STAGE" in os.environ:
        waiting = partial(_parent_ends, int(parent or os.getppid()))
    else:
        return

    def watch() -> None:
        waiting()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stdin_ends() -> None:
    while os.read(0, 1):
        pass


def _parent_ends(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)


def _run_command(command: Sequence[str], arguments: Sequence[str]) -> int:
    try:
        return subprocess.run([*command, "ppd", *arguments], check=False).returncode
    except OSError as error:
        raise InputError(
            f"launch.command: {command[0]!r} cannot be started ({error.strerror})",
            fix="Name a command that starts `ppd …` in several processes, or null for processes of this machine",
        ) from error


def _first_to_fail(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    running = set(range(len(processes)))
    while running:
        for rank in sorted(running):
            status = processes[rank].poll()
            if status:
                return rank
            if status == 0:
                running.discard(rank)
        time.sleep(0.05)
    return None


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask those that still run to end, and see to it."""
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
