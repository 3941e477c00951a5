"""Processes of one machine: how many, and what becomes of all when one of them ends otherwise than it should."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import ppd.launch as launch
from ppd.errors import InputError
from ppd.settings import LaunchSettings, RewardSettings, Settings


def settings(**launched: object) -> Settings:
    return Settings(launch=LaunchSettings.model_validate(launched))


def test_auto_is_a_process_a_gpu_or_one_a_core_and_two_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "accelerators", lambda: 0)
    monkeypatch.setattr(launch, "cores", lambda: 5)
    assert launch.n_processes("embed", settings()) == 5
    assert launch.n_processes("finetune", settings()) == 2
    monkeypatch.setattr(launch, "cores", lambda: 64)
    assert launch.n_processes("sample", settings()) == launch.MOST_ON_CPUS
    monkeypatch.setattr(launch, "accelerators", lambda: 4)
    assert launch.n_processes("embed", settings()) == launch.n_processes("finetune", settings()) == 4


def test_a_number_is_that_number_and_what_has_nothing_to_share_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "accelerators", lambda: 4)
    assert launch.n_processes("judge", settings(processes=3)) == 3
    assert launch.n_processes("finetune", settings(processes=3, training=1)) == 1
    assert launch.n_processes("ingest", settings(processes=3)) == 0
    assert launch.n_processes("report", settings(processes=3)) == 0
    scored = settings(processes=3).model_copy(update={"rewards": (RewardSettings(kind="clip", checkpoint="x"),)})
    assert launch.n_processes("report", scored) == 3


def test_a_process_of_several_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert launch.run_shared("embed", settings(processes=2, command="false"), []) is None


def test_a_command_gets_ours_and_its_status_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "start.sh"
    file.write_text(f'echo "$@" > {tmp_path}/asked; exit 5')
    assert launch.run_shared("embed", settings(command=f"sh {file} --nodes 2"), ["stage", "embed"]) == 5
    assert (tmp_path / "asked").read_text() == "--nodes 2 ppd stage embed\n"
    with pytest.raises(InputError, match="launch.command: 'no-such-thing' cannot be started"):
        launch.run_shared("embed", settings(command="no-such-thing"), [])


@pytest.mark.parametrize("command", ["ppd", "accelerate launch --no_python ppd", ""])
def test_a_command_of_before_is_answered(command: str) -> None:
    with pytest.raises(ValueError, match="leave out the `ppd` at its end"):
        settings(command=command)


def python(code: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"import os, sys, time\nfrom ppd.launch import end_with_parent\nend_with_parent()\n{code}",
    ]


def test_all_know_of_each_other_and_only_the_first_speaks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = f"""
rank = os.environ["RANK"]
print("spoken by", rank); print("whispered by", rank, file=sys.stderr)
names = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "OMP_NUM_THREADS")
open("{tmp_path}/" + rank, "w").write(" ".join(os.environ[name] for name in names))
"""
    assert launch.run_processes(python(code), 3) == 0
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        str(rank): f"3 {rank} 127.0.0.1 {threads}" for rank in range(3)
    }
    assert capfd.readouterr() == ("spoken by 0\n", "whispered by 0\n")


def test_when_one_fails_all_end_with_its_status_and_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
if os.environ["RANK"] == "1":
    print("no such image", file=sys.stderr)
    sys.exit(2)
time.sleep(60)
"""
    began = time.monotonic()
    assert launch.run_processes(python(code), 3) == 2
    assert time.monotonic() - began < 20
    assert capfd.readouterr().err == "no such image\n"
    assert launch.run_processes(python("os.kill(os.getpid(), 9)"), 1) == 128 + signal.SIGKILL


def test_none_outlives_the_one_that_started_them(tmp_path: Path) -> None:
    worker = python(f"open('{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(60)")
    starter = subprocess.Popen(
        [sys.executable, "-c", f"from ppd.launch import run_processes; run_processes({worker!r}, 2)"]
    )
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(file.name) for file in tmp_path.iterdir() if re.fullmatch(r"\d+", file.name)]
    assert len(pids) == 2
    starter.kill()
    starter.wait()
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("variable", ["DVC_STAGE", launch.PARENT])
def test_a_stage_outlives_neither_dvc_nor_a_reevaluation_that_was_killed_alone(tmp_path: Path, variable: str) -> None:
    """As by the kernel, when memory runs out: only the starter is killed, not its group."""
    started, note = python("print(os.getpid(), flush=True); time.sleep(60)"), tmp_path / "pid"
    starter = f"""
import os, subprocess
environment = os.environ | {{"{variable}": str(os.getpid())}}
subprocess.run({started!r}, env=environment, stdout=open("{note}", "w"))
"""
    process = subprocess.Popen([sys.executable, "-c", starter])
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(note.read_text())
    process.kill()
    process.wait()
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(pid)


def test_what_is_started_by_hand_lives_on_without_its_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DVC_STAGE", launch.PARENT):
        monkeypatch.delenv(variable, raising=False)
    started = python(f"time.sleep(2); open('{tmp_path}/done', 'w')")
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({started!r})"], check=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "done").exists()


def lives(pid: int) -> bool:
    """Whether it runs; where nobody asks for its status, a process that has ended still has its number."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
