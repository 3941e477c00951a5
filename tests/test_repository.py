"""What a fresh clone relies on before any of our code runs."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_everything_that_is_installed_by_name_is_pinned_to_a_version_that_fits():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in map(Requirement, [*project["dependencies"], *extras["dev"], *extras["studio"]]):
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)], prereleases=True), wanted
    assert versions["torch"] == "2.13.0"


@pytest.mark.parametrize("file", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run"])
def test_nothing_says_where_packages_come_from(file):
    assert not re.search(r"index-url|find-links|--index|trusted-host", (ROOT / file).read_text())


def test_ci_runs_the_tests_as_make_does():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


def test_the_remote_is_a_folder_of_the_repository_that_git_keeps():
    config = (ROOT / ".dvc/config").read_text()
    assert "remote = store" in config
    assert re.search(r'\[\'remote "store"\'\]\s+url = store\n', config)
    assert git("check-ignore", ".dvc/store/files/md5/00/00").returncode == 1  # not ignored


@pytest.mark.parametrize("left_behind", ["src/ppd/__pycache__", "src/ppd/cli.pyc", ".venv", "runs"])
def test_what_running_leaves_behind_is_no_change_for_dvc(left_behind):
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.check_ignore(left_behind).match


@pytest.mark.parametrize("made", ["artifacts/preferences", "models/ppd", "data", "runs", ".dagster", ".venv"])
def test_what_is_made_stays_out_of_git(made):
    assert git("check-ignore", f"{made}/anything").returncode == 0
