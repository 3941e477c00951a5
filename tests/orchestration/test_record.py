"""Results are committed when asked for, and nothing else with them."""

import subprocess

import pytest

from orchestration.record import build_record


@pytest.fixture
def git(project, monkeypatch: pytest.MonkeyPatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=project.root, capture_output=True, text=True, check=True
        ).stdout.strip()

    run("add", ".")
    run("commit", "-qm", "before")
    return run


def test_only_results_are_committed_and_only_once(project, git):
    job = build_record(project.graph)
    config = {"ops": {"commit_results": {"config": {"message": "monday"}}}}
    project.repro()
    project.write("code/prepare.txt", "work in progress\n")
    git("add", "code/prepare.txt")
    assert git("log", "-1", "--format=%s") == "before", "a run commits nothing by itself"

    assert job.execute_in_process(instance=project.instance, run_config=config).success
    assert git("log", "-1", "--format=%s") == "monday"
    committed = git("show", "--name-only", "--format=", "HEAD").splitlines()
    assert "dvc.lock" in committed
    assert "code/prepare.txt" not in committed
    assert git("diff", "--cached", "--name-only") == "code/prepare.txt", "what was staged stays staged"

    assert job.execute_in_process(instance=project.instance, run_config=config).success
    assert git("rev-list", "--count", "HEAD") == "2"
