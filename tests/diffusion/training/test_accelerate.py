"""What accelerate was configured for never changes training: `params.yaml` decides alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_in_processes.py")
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
mixed_precision: bf16
num_machines: 1
num_processes: 1
use_cpu: true
"""


def curve(base: Path, out: Path, launcher: tuple[str, ...] = (), **environment: str) -> tuple[bytes, str]:
    """The curve of a small run in a process of its own, and what it said."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    script = [] if launcher else [sys.executable]
    command = [*launcher, *script, str(SCRIPT), str(base), str(out), "1"]
    environment = plain | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return (out / "curve.csv").read_bytes(), done.stderr


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    content, said = curve(tiny_folder, tmp_path_factory.mktemp("plain"))
    assert "accelerate" not in said
    return content


SETTINGS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
}


@pytest.mark.slow
def test_variables_of_the_environment_change_nothing_and_are_said(
    tiny_folder: Path, plain: bytes, tmp_path: Path
) -> None:
    content, said = curve(tiny_folder, tmp_path, **SETTINGS)
    assert content == plain
    for name, value in SETTINGS.items():
        assert f"{name}={value}" in said, "a setting that is not used is named"


@pytest.mark.slow
def test_a_config_file_changes_nothing(tiny_folder: Path, plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "config.yaml"))
    content, said = curve(tiny_folder, tmp_path / "out", launcher)
    assert content == plain
    assert "ACCELERATE_MIXED_PRECISION=bf16" in said
