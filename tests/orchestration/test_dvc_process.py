"""DVC as a process: what it did is reported, and nothing that it started outlives a cancelled run."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestration import dvc_process

SLOW = """
stages:
  slow:
    cmd: sh -c 'echo $$ > pid; trap "" {trap}; while true; do sleep 0.1; done'
    outs: [never]
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_outcomes_are_ran_skipped_and_cached(project):
    lines: list[str] = []
    assert dvc_process.repro(project.root, ["prepare"], lines.append) == {"prepare": "ran"}
    assert any("cat code/prepare.txt" in line for line in lines)
    assert dvc_process.repro(project.root, ["prepare"], lines.append) == {"prepare": "skipped"}
    before = (project.root / "code/prepare.txt").read_text()
    project.write("code/prepare.txt", "prepare 2\n")
    project.repro("prepare", single=True)
    project.write("code/prepare.txt", before)
    assert dvc_process.repro(project.root, ["prepare"], lines.append) == {"prepare": "cached"}
    assert dvc_process.repro(project.root, ["prepare"], lines.append, force=True) == {"prepare": "ran"}


def test_a_stage_that_fails_says_why(project):
    project.write("dvc.yaml", "stages: {bad: {cmd: 'echo out of paint && exit 3', outs: [x]}}")
    with pytest.raises(dvc_process.Failed, match=r"(?s)exit code \d+:.*out of paint"):
        dvc_process.repro(project.root, ["bad"], lambda line: None)


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["INT", "INT TERM"], ids=["polite", "deaf"])
def test_a_cancelled_run_takes_the_stage_with_it(project, trap):
    # Dagster cancels a step by raising in its main thread, from a signal.
    project.write("dvc.yaml", SLOW.format(trap=trap))
    pid_file = project.root / "pid"

    def cancel() -> None:
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
        os.kill(os.getpid(), signal.SIGUSR1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            dvc_process.repro(project.root, ["slow"], lambda line: None)
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    wait_until(lambda: not alive(int(pid_file.read_text())), 10)


@pytest.mark.slow
def test_two_runs_at_once_wait_for_each_other(project):
    dvc_process.repro(project.root, ["prepare"], lambda line: None)
    failures: list[Exception] = []

    def embed(shard: str) -> None:
        try:
            dvc_process.repro(project.root, [f"embed@{shard}"], lambda line: None)
        except dvc_process.Failed as failure:
            failures.append(failure)

    threads = [threading.Thread(target=embed, args=(shard,)) for shard in project.graph.stage("embed").partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert project.behind_for_dvc() == {"users", "train@ppd", "train@dpo", "report"}
