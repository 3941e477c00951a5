"""Results are committed when asked for, and nothing else with them."""

import subprocess

import pytest
from dvc.repo import Repo

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


def push(project, url) -> "tuple[bool, str]":
    """Whether the job ran, and all that it said."""
    with Repo(str(project.root)) as repo, repo.config.edit() as config:
        config["core"]["remote"] = "mine"
        config["remote"]["mine"] = {"url": str(url)}
    config = {"ops": {"commit_results": {"config": {"push": True}}}}
    done = build_record(project.graph).execute_in_process(
        instance=project.instance, run_config=config, raise_on_error=False
    )
    records = project.instance.all_logs(done.run_id)
    return done.success, "\n".join(f"{record.user_message} {record.dagster_event or ''}" for record in records)


def test_results_are_never_pushed_into_the_repositorys_own_store(project, git):
    project.repro()
    success, said = push(project, project.root / "store")
    assert not success
    assert "inside this repository" in said and "dvc remote add --local -d" in said
    assert git("rev-list", "--count", "HEAD") == "1", "refused before anything is done"


def test_a_push_says_where_things_go(project, git, tmp_path):
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "origin"], check=True)
    git("remote", "add", "origin", str(tmp_path / "origin"))
    git("push", "-qu", "origin", "HEAD")
    project.repro()
    success, said = push(project, tmp_path / "elsewhere")
    assert success
    assert f"remote mine, {tmp_path / 'elsewhere'}" in said
    assert f"Pushing to {tmp_path / 'origin'}" in said
    assert list((tmp_path / "elsewhere").rglob("*"))
    assert git("rev-parse", "HEAD") == git("rev-parse", "@{u}")
