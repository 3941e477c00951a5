import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file


def run(base: Path, out: Path, n_processes: int, *killed_at: int) -> subprocess.CompletedProcess[str]:
    """train_in_processes.py in `n_processes` processes that talk over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("train_in_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
    command += [f"--master-port={port}", str(script), str(base), str(out), str(n_processes), *map(str, killed_at)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def two(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    out = tmp_path_factory.mktemp("two")
    done = run(tiny_folder, out, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tiny_folder: Path, two: Path, tmp_path: Path) -> None:
    done = run(tiny_folder, tmp_path, 1)
    assert done.returncode == 0, done.stderr[-3000:]
    curve = pd.read_csv(two / "curve.csv")
    assert len(curve) == 6
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curve.csv"), curve, rtol=1e-2, atol=1e-5)
    first, second = (load_file(two / f"adapter-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_exactly_and_leave_one_adapter(
    tiny_folder: Path, two: Path, tmp_path: Path
) -> None:
    assert run(tiny_folder, tmp_path, 2, 4).returncode != 0
    assert [p.name for p in tmp_path.iterdir()] == ["work"]
    done = run(tiny_folder, tmp_path, 2, -1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in tmp_path.iterdir()] == ["ppd"]
    assert done.stderr.count("trained parameters") == 1, "only the first process talks"
    assert (tmp_path / "ppd" / "curve.csv").read_bytes() == (two / "curve.csv").read_bytes()
    resumed, whole = load_file(tmp_path / "ppd" / "adapter.safetensors"), load_file(two / "adapter-0.safetensors")
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(tiny_folder: Path, two: Path, tmp_path: Path) -> None:
    """With the same sums in another order: equal but for rounding."""
    assert run(tiny_folder, tmp_path, 2, 4).returncode != 0
    done = run(tiny_folder, tmp_path, 1, -1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 from 3" in done.stderr, "it has not started over"
    resumed, whole = load_file(tmp_path / "ppd" / "adapter.safetensors"), load_file(two / "adapter-0.safetensors")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-3, atol=1e-4)
