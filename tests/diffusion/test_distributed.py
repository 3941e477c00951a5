import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file


def train(base: Path, out: Path, n_processes: int) -> pd.DataFrame:
    """Train in `n_processes` processes that talk over gloo; the curve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("train_in_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
    command += [f"--master-port={port}", str(script), str(base), str(out), str(n_processes)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return pd.read_csv(out / "curve.csv")


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tiny_folder: Path, tmp_path: Path) -> None:
    one, two = train(tiny_folder, tmp_path / "1", 1), train(tiny_folder, tmp_path / "2", 2)
    assert len(two) == 6
    pd.testing.assert_frame_equal(one, two, rtol=1e-2, atol=1e-5)
    first, second = (load_file(tmp_path / "2" / f"adapter-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
