"""What `make` does to a user's files: nothing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone of a repository that keeps data/ as this one does."""
    origin = tmp_path / "origin"
    for file in ("choices/log.parquet", "models/vlm/config.json", "stickers/atlas.png", "truth/people.parquet"):
        (origin / "data" / file).parent.mkdir(parents=True)
        (origin / "data" / file).write_text(file)
    (origin / "Makefile").write_text((ROOT / "Makefile").read_text())
    run(origin, "git", "init", "--quiet", "--initial-branch", "main")
    dvc = (sys.executable, "-m", "dvc")
    for command in (("init",), ("remote", "add", "-d", "store", "store"), ("add", "data"), ("push",)):
        run(origin, *dvc, *command, "--quiet")
    run(origin, "git", "add", "-A")
    run(origin, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "data")
    run(tmp_path, "git", "clone", "--quiet", str(origin), "clone")
    return tmp_path / "clone"


def make_data(clone: Path) -> str:
    # With the environment that runs this test, already installed; and as if `make test` did not run it.
    return run(
        clone, "make", "--no-print-directory", "data", f"BIN={Path(sys.executable).parent}", "INSTALLED=Makefile"
    )


def test_in_a_fresh_clone_everything_is_fetched(clone: Path) -> None:
    make_data(clone)
    assert (clone / "data/models/vlm/config.json").read_text() == "models/vlm/config.json"
    assert make_data(clone) == "", "a second call has nothing to do and nothing to say"


def test_files_of_ones_own_stay_and_what_is_missing_is_fetched(clone: Path) -> None:
    (clone / "data/choices").mkdir(parents=True)
    (clone / "data/choices/choices.csv").write_text("mine")
    make_data(clone)
    (clone / "data/choices/log.parquet").unlink(missing_ok=True)
    said = make_data(clone)
    assert (clone / "data/choices/choices.csv").read_text() == "mine"
    assert (clone / "data/models/vlm/config.json").exists()
    assert "they stay" in said


def test_another_failure_is_told_and_ends_it(clone: Path) -> None:
    (clone / "data.dvc").write_text("outs: [")
    done = subprocess.run(
        ["make", "--no-print-directory", "data", f"BIN={Path(sys.executable).parent}", "INSTALLED=Makefile"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "data.dvc" in done.stderr


def test_the_interface_waits_for_a_busy_machine_and_so_do_the_benches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    commands = run(ROOT, "make", "-n", "ui", "INSTALLED=Makefile").splitlines()
    [dagster] = [command for command in commands if "dagster dev" in command]
    for name, value in importlib.import_module("served").PATIENT.items():
        assert f"{name}={value}" in dagster.split()
