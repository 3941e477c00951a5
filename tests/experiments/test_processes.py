"""Jobs side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ppd.experiments.processes import run_side_by_side
from tests.experiments.jobs import fail, write_pid

WAITS = """
from pathlib import Path
from ppd.experiments.processes import run_side_by_side
from tests.experiments.jobs import write_pid_and_wait
if __name__ == "__main__":
    folder = Path({folder!r})
    jobs = {{name: (folder / name,) for name in "ab"}}
    run_side_by_side(write_pid_and_wait, jobs, folder / "logs", n_workers=2)
"""


@pytest.mark.slow
def test_each_job_has_a_process_of_its_own_and_a_log(tmp_path: Path):
    run_side_by_side(write_pid, {name: (tmp_path / name,) for name in "abc"}, tmp_path / "logs", n_workers=2)
    pids = {int((tmp_path / name).read_text()) for name in "abc"}
    assert len(pids) == 3 and os.getpid() not in pids
    assert (tmp_path / "logs" / "a.log").read_text() == "written\n"


def test_one_worker_runs_them_here(tmp_path: Path):
    run_side_by_side(write_pid, {"a": (tmp_path / "a",)}, tmp_path / "logs", n_workers=1)
    assert int((tmp_path / "a").read_text()) == os.getpid()


@pytest.mark.slow
def test_a_failure_is_raised(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        run_side_by_side(fail, {"a": ()}, tmp_path, n_workers=2)


@pytest.mark.slow
def test_workers_end_when_the_parent_is_killed(tmp_path: Path):
    script = tmp_path / "waits.py"
    script.write_text(WAITS.format(folder=str(tmp_path)))
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    parent = subprocess.Popen([sys.executable, script], cwd=root, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in "ab"):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.1)
    workers = [psutil.Process(int((tmp_path / name).read_text())) for name in "ab"]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
