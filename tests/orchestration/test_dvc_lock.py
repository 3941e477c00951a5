"""What a kill within DVC's own writes leaves: the next run goes on, and nothing is lost."""

import os
import signal
import subprocess
import sys

import pytest
from dvc.lock import LockError

from orchestration import dvc_lock, dvc_process
from orchestration.dvc_graph import read_graph
from orchestration.dvc_lock import BROKEN, mend
from orchestration.dvc_state import read_lock, read_workspace
from tests.orchestration.conftest import wait_until


def commit(project) -> None:
    for command in (["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "As it is now"]):
        subprocess.run(["git", *command], cwd=project.root, check=True)


def start(project, *addresses: str) -> tuple[dict[str, str], str]:
    """What came of each stage, and what was said, by the door of the user interface."""
    lines: list[str] = []
    return dvc_process.repro(project.root, addresses, lines.append), "\n".join(lines)


@pytest.fixture
def project(project):
    project.repro()
    return project


@pytest.mark.slow
@pytest.mark.parametrize("left", [0.0, 0.001, 0.02, 0.3, 0.5, 0.7, 0.97])
def test_a_lock_that_a_kill_has_cut_costs_no_work(project, left):
    """Every share of a whole lock, be it YAML or not: what it has lost is taken from the cache of runs."""
    file = project.root / "dvc.lock"
    whole = file.read_bytes()
    before = {path: path.read_bytes() for path in project.root.glob("*/**/*.txt")}
    file.write_bytes(whole[: int(left * len(whole))])
    outcomes, _ = start(project, "prepare", "embed@s-00", "embed@s-01", "embed@s-02", "users", "train@ppd", "train@dpo")
    assert "ran" not in outcomes.values()
    assert {path: path.read_bytes() for path in before} == before
    project.repro("report")
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_a_torn_lock_is_as_in_the_last_commit_and_what_was_torn_is_kept(project):
    commit(project)
    file = project.root / "dvc.lock"
    whole = file.read_bytes()
    file.write_bytes(b"")
    outcomes, said = start(project, "prepare")
    assert outcomes == {"prepare": "skipped"}
    assert "was torn by a kill: it is as in the last commit" in said
    assert file.read_bytes() == whole
    assert [torn.read_bytes() for torn in (project.root / ".dvc/tmp").glob("*-dvc.lock.torn")] == [b""]


@pytest.mark.parametrize("read", [read_lock, read_graph, read_workspace])
def test_who_reads_a_lock_that_stays_broken_mends_it(project, read, monkeypatch):
    commit(project)
    monkeypatch.setattr(dvc_lock, "PATIENCE_S", 0.5)
    expected = read(project.root)
    project.write("dvc.lock", "stages: [")
    assert read(project.root) == expected


def test_a_merge_with_conflicts_is_left_to_its_owner(project, monkeypatch):
    monkeypatch.setattr(dvc_lock, "PATIENCE_S", 0.5)
    text = "schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\n>>>>>>> theirs\n"
    project.write("dvc.lock", text)
    with pytest.raises(BROKEN):
        read_lock(project.root)
    with pytest.raises(dvc_process.Failed, match="dvc.lock"):
        start(project, "prepare")
    assert (project.root / "dvc.lock").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["", '{"write": {"prep'])
def test_a_list_of_paths_in_use_that_a_kill_has_torn_is_begun_anew(project, torn):
    project.write(".dvc/tmp/rwlock", torn)
    outcomes, said = start(project, "prepare")
    assert outcomes == {"prepare": "skipped"}
    assert "list of paths in use was torn" in said


@pytest.mark.slow
def test_it_stays_while_another_dvc_runs_here(project):
    """That one may hold paths that the list no longer names."""
    slow = (project.root / "dvc.yaml").read_text().replace("mkdir -p prepared", "touch up; sleep 60; mkdir -p prepared")
    project.write("dvc.yaml", slow)
    other = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "prepare"], cwd=project.root, start_new_session=True
    )
    try:
        wait_until((project.root / "up").exists)
        project.write(".dvc/tmp/rwlock", "")
        with pytest.raises(LockError, match=rf"dvc repro prepare.*\(process {other.pid}\)"):
            mend(project.root)
        assert (project.root / ".dvc/tmp/rwlock").read_text() == ""
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
    assert mend(project.root)


def test_where_all_is_whole_it_says_so(project, request):
    command = [sys.executable, "-m", "orchestration.dvc_lock"]
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath)}
    said = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "dvc.lock and the list of paths in use are whole.\n"
    assert mend(project.root) == []
