"""DVC as a process: what it did is reported, and nothing that it started outlives a cancelled run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestration import dvc_process
from tests.orchestration.conftest import wait_until

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


LAUNCHER = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "worker.py", *sys.argv[1:]], start_new_session=True)
def end(*_):
    time.sleep(0.3); child.terminate(); child.wait(); sys.exit(1)
signal.signal(signal.SIGTERM, end)
while True: time.sleep(1)
"""
WORKER = """
import pathlib, signal, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    pathlib.Path("beat").touch(); time.sleep(0.05)
"""
# In a process of its own, which starts a launcher that starts a worker in a session of its own, and then ends as it is
# told to: cancelled, killed, or after the launcher is gone.
ASKER = '''
import os, pathlib, signal, subprocess, sys, time
from orchestration.dvc_process import Failed, run_group
how, *arguments = sys.argv[1:]
def take(line):
    while not pathlib.Path("beat").exists(): time.sleep(0.05)
    if how == "cancelled": raise KeyboardInterrupt
    if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
launch = """
import pathlib, subprocess, sys, time
print("up", flush=True)
launcher = subprocess.Popen([sys.executable, *sys.argv[2:]])
while not pathlib.Path("beat").exists(): time.sleep(0.05)
if sys.argv[1] != "left behind": launcher.wait()
"""
try: run_group([sys.executable, "-c", launch, how, "launcher.py", *arguments], pathlib.Path.cwd(), take)
except (KeyboardInterrupt, Failed): pass
'''


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "killed", "left behind"])
@pytest.mark.parametrize("deaf", [[], ["deaf"]], ids=["polite", "deaf"])
def test_workers_in_sessions_of_their_own_end_too(tmp_path, request, how, deaf):
    """As torchrun starts them."""
    for name, text in {"launcher.py": LAUNCHER, "worker.py": WORKER, "asker.py": ASKER}.items():
        (tmp_path / name).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath)}
    subprocess.run([sys.executable, "asker.py", how, *deaf], cwd=tmp_path, env=environment, check=False, timeout=60)
    beat = tmp_path / "beat"
    assert beat.exists()
    # The time of the file and not its text: a worker killed within a write would leave none.
    wait_until(lambda: time.time() - beat.stat().st_mtime > 1, 20)


@pytest.mark.slow
def test_a_stage_that_another_process_runs_is_waited_for(project, monkeypatch: pytest.MonkeyPatch):
    """DVC itself gives up at once."""
    slow = (
        (project.root / "dvc.yaml")
        .read_text()
        .replace("mkdir -p prepared/shards", "touch up; sleep 6; mkdir -p prepared/shards")
    )
    project.write("dvc.yaml", slow)
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "prepare"], cwd=project.root)
    wait_until((project.root / "up").exists)
    lines: list[str] = []
    assert dvc_process.repro(project.root, ["prepare"], lines.append) == {"prepare": "skipped"}
    assert other.wait() == 0
    [waited] = [line for line in lines if "is in use by" in line]
    assert f"(PID {other.pid}): " in waited and "dvc repro prepare" in waited

    monkeypatch.setattr(dvc_process, "BUSY_LIMIT_S", 0.0)
    (project.root / "up").unlink()
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--force", "prepare"], cwd=project.root)
    wait_until((project.root / "up").exists)
    with pytest.raises(dvc_process.Failed, match=rf"in use by \(PID {other.pid}\).*for 0 h"):
        dvc_process.repro(project.root, ["prepare"], lines.append)
    assert other.wait() == 0


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
