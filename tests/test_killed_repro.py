"""A stage killed under `dvc repro`, with all that it started, goes on with what it had finished: the soak in short."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ppd.settings import EvaluationSettings, LaunchSettings, SamplingSettings, Settings
from tests.test_stages import tiny_prior

STAGE = """
stages:
  sample-base:
    cmd: ppd stage sample --method base
    deps: [artifacts/preferences, data/models/prior]
    params: [evaluation, sampling]
    outs: [artifacts/samples/base]
"""
SETTINGS = Settings(
    sampling=SamplingSettings(precision="fp32", steps=4, batch_size=1),
    launch=LaunchSettings(processes=1),
    evaluation=EvaluationSettings(
        n_unseen_users=3, n_seen_users=2, captions_per_user=2, n_seeds=16, n_interpolations=1
    ),
)
PARTS, SAMPLES = Path("runs/unfinished/sample-base-images"), Path("artifacts/samples/base/images.parquet")
WITHIN_S = 600.0


def project(folder: Path, preferences: Path) -> Path:
    """A repository with what the stage reads, and nothing that has run."""
    tiny_prior(folder / "data/models/prior")
    shutil.copytree(preferences, folder / "artifacts/preferences")
    (folder / "dvc.yaml").write_text(STAGE)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(SETTINGS.model_dump(mode="json"), file)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def repro(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro", "-q", "sample-base"]
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def parts(folder: Path) -> dict[str, tuple[int, int]]:
    """The finished parts, each with its inode and the time when it was written."""
    found = {}
    for file in (folder / PARTS).glob("*/*.parquet"):
        try:
            found[file.name] = (file.stat().st_ino, file.stat().st_mtime_ns)
        except FileNotFoundError:  # all are put together now
            return {}
    return found


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What the test starts; all of it ends with the test, also where that fails."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_stage_killed_under_dvc_repro_makes_no_finished_part_again_and_ends_in_the_same_bytes(
    tmp_path: Path, simulated: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    before = project(tmp_path / "before", simulated / "preferences")
    folder, whole = (shutil.copytree(before, tmp_path / name) for name in ("killed", "whole"))
    started.append(killed := repro(folder))
    deadline = time.monotonic() + WITHIN_S
    while len(parts(folder)) < 3:
        assert killed.poll() is None and time.monotonic() < deadline, "it was to be killed with three parts done"
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done, made_again = parts(folder), set[str]()
    assert done, "the kill came too late to prove anything"
    assert not (folder / SAMPLES).exists()
    started.append(again := repro(folder))
    while again.poll() is None:
        made_again |= {name for name, file in parts(folder).items() if file != done.get(name, file)}
        time.sleep(0.01)
    started.append(undisturbed := repro(whole))
    assert again.returncode == undisturbed.wait() == 0
    assert made_again == set()
    sampled = [hashlib.sha256((root / SAMPLES).read_bytes()).hexdigest() for root in (folder, whole)]
    assert sampled[0] == sampled[1]
    assert not (folder / PARTS).exists()
