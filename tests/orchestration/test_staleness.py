"""Two doors, one verdict: what Dagster calls stale is what DVC calls out of date."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dvc.lock import LockError

from orchestration.dvc_graph import Stage
from orchestration.dvc_state import read_lock


def agree(project) -> set[str]:
    """The items that both call out of date, after a tick of the sensor."""
    project.tick()
    behind = project.behind_for_dvc()
    assert project.behind_for_dagster() == behind
    return behind


def test_a_run_in_the_shell_is_noticed_and_then_there_is_no_more_to_say(project):
    assert len(agree(project)) == 8
    project.repro()
    assert agree(project) == set()
    assert project.tick() == "Nothing changed."
    project.cursor = None
    assert project.tick() == "Reported 0 events."


def test_one_changed_user_makes_one_shard_stale_and_then_what_comes_after(project):
    project.repro()
    project.write("data/s-01.txt", "a changed mind\n")
    assert agree(project) == {"prepare"}
    project.repro("prepare", single=True)
    assert agree(project) == {"embed@s-01"}
    project.materialize("embed", "s-01")
    assert agree(project) == {"users"}
    project.materialize("users")
    assert agree(project) == {"train@dpo", "train@ppd"}


def test_a_setting_makes_only_its_readers_stale(project):
    project.repro()
    project.write("params.yaml", "prepare: {scale: 1}\ntrain: {ppd: {lr: 2}, dpo: {lr: 1}}\n")
    assert agree(project) == {"train@ppd"}


def test_going_back_is_fresh_again(project):
    project.repro()
    before = (project.root / "code/embed.txt").read_text()
    project.write("code/embed.txt", "embed 2\n")
    assert agree(project) == {"embed@s-00", "embed@s-01", "embed@s-02"}
    project.write("code/embed.txt", before)
    assert agree(project) == set()


@pytest.mark.slow
def test_both_doors_leave_the_same_bytes(project):
    project.repro()
    made = [out for stage in project.graph.stages for item in stage.items for out in item.outs]
    files = [path for out in made for path in files_of(project.root, out)]
    locked = read_lock(project.root)
    before = {path: (project.root / path).read_bytes() for path in files}
    shutil.rmtree(project.root / ".dvc/cache/runs")  # so that nothing is taken from the shell's run
    for path in ("dvc.lock", *files):
        (project.root / path).unlink()
    for stage in project.graph.in_order:
        if isinstance(stage, Stage):
            for partition in stage.partitions or [None]:
                assert project.materialize(stage.name, partition).success
    assert {path: (project.root / path).read_bytes() for path in before} == before
    assert read_lock(project.root) == locked


def files_of(root: Path, out: str) -> list[str]:
    whole = root / out
    found = [path for path in whole.rglob("*") if path.is_file()] if whole.is_dir() else [whole]
    return [path.relative_to(root).as_posix() for path in found]


@pytest.mark.slow
def test_the_sensor_works_while_a_stage_runs(project):
    # `dvc status` would fail then: DVC is busy.
    project.repro("prepare")
    slow = (project.root / "dvc.yaml").read_text().replace("cat users.txt", "touch running; sleep 30; cat users.txt")
    project.write("dvc.yaml", slow)
    project.repro("users")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "train@ppd"]
    busy = subprocess.Popen(command, cwd=project.root, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (project.root / "running").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with pytest.raises(LockError):
            project.behind_for_dvc()
        assert project.tick().startswith("Reported ")
    finally:
        os.killpg(busy.pid, signal.SIGKILL)
        busy.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_verdicts_agree_after_every_step_of_a_random_sequence(project, seed):
    rng = random.Random(seed)
    project.repro()
    stages = [(stage.name, item.partition) for stage in project.graph.stages for item in stage.items]

    def edit() -> str:
        path = rng.choice(["data/s-00.txt", "data/s-02.txt", "code/prepare.txt", "code/embed.txt", "params.yaml"])
        lr = [rng.randint(1, 2) for _ in range(3)]
        params = f"prepare: {{scale: {lr[0]}}}\ntrain: {{ppd: {{lr: {lr[1]}}}, dpo: {{lr: {lr[2]}}}}}\n"
        project.write(path, params if path == "params.yaml" else f"{path} {rng.randint(1, 2)}\n")
        return f"edit {path}"

    def shell() -> str:
        name, partition = rng.choice(stages)
        address = f"{name}@{partition}" if partition else name
        single = rng.random() < 0.5
        if single and "embed" in address and not (project.root / "prepared").exists():
            return "nothing"
        project.repro(address, single=single)
        return f"dvc repro {address} single={single}"

    def dagster() -> str:
        name, partition = rng.choice(stages)
        assert project.materialize(name, partition).success
        return f"materialize {name} {partition}"

    steps: list[str] = []
    for _ in range(10):
        steps.append(rng.choice([edit, edit, shell, dagster])())
        project.tick()
        assert project.behind_for_dagster() == project.behind_for_dvc(), steps
