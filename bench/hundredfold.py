"""Slopes behind docs/scale.md that two cores can measure, beside bench/log_scale.py, ingest.py and dvc_files.py.

    python bench/hundredfold.py            # some minutes

Tables: the pairs of a log, without images, split and written as `ingest` does. Order: what
finding a step's pairs costs by the number of pairs. Shards: loading the definitions of a graph with so many of them.
Seconds are of CPU time; each measurement is a process of its own, whose peak memory is read from Linux's /proc.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ppd.files import atomic_path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results/hundredfold.json"


def tables(n: int) -> dict[str, float]:
    """Pairs of n rows: splitting them, their bytes on disk and in memory."""
    import numpy as np
    import pandas as pd

    from ppd.preferences.splits import assign
    from ppd.settings import load_settings
    from ppd.stored_tables import write_table

    random = np.random.default_rng(0)
    session = np.cumsum(random.random(n) < 0.25)
    texts = {
        "user_id": random.integers(max(24, n // 220), size=n)[session].astype(str),
        "caption": [f"a picture of thing number {number}, detailed, 4k" for number in (session % max(40, n // 16))],
        "chosen_uid": [f"{number:08x}-0000-4000-8000-000000000000" for number in session * 8],
        "rejected_uid": [f"{number:08x}-0000-4000-8000-000000000001" for number in range(n)],
    }
    pairs = pd.DataFrame({"pair_id": np.arange(n), **{name: pd.array(list(v), "str") for name, v in texts.items()}})
    pairs["created_at"] = pd.Timestamp("2023-02-01")
    began, before = time.process_time(), held_now()
    splits = assign(pairs, load_settings(ROOT / "params.paper.yaml").preferences)
    took, needed = time.process_time() - began, peak() - before
    with tempfile.TemporaryDirectory() as folder:
        write_table(splits.pairs, file := Path(folder) / "pairs.parquet", row_group_size=1 << 17)
        return {
            "split_us_a_row": took / n * 1e6,
            "split_bytes_a_row": needed / n,
            "disk_bytes_a_pair": file.stat().st_size / len(splits.pairs),
        }


def order(n: int) -> dict[str, float]:
    """Pairs of one step of 768 out of n, as a training draws them."""
    from ppd.diffusion.training.dataset import draw_batch
    from ppd.settings import FinetuneSettings

    settings = FinetuneSettings(steps=10**9, pairs_per_step=768, fresh_epochs=None)
    draw_batch(0, n, (1, 1, 1), settings)
    began = time.process_time()
    for step in (1, 2, 3):
        draw_batch(step, n, (1, 1, 1), settings)
    return {"s_a_step": (time.process_time() - began) / 3, "peak_gb": peak() / 1e9}


def shards(n: int) -> dict[str, float]:
    """The code location of this repository with n shards."""
    from ruamel.yaml import YAML

    yaml = YAML()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes((ROOT / name).read_bytes())
        graph = yaml.load(copy / "dvc.yaml")
        graph["stages"]["embed"]["matrix"]["shard"] = [f"s-{at:02d}" for at in range(n)]
        yaml.dump(graph, copy / "dvc.yaml")
        for command in (["git", "init", "-q"], ["git", "add", "-A"]):
            subprocess.run(command, cwd=copy, check=True)
        began = time.perf_counter()
        code = "import time; import orchestration.definitions as d; print(time.process_time())"
        done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
        return {"load_cpu_s": float(done.stdout.splitlines()[-1]), "load_wall_s": time.perf_counter() - began}


def held_now() -> int:
    return _status("RssAnon")


def peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


KINDS: dict[str, tuple[Callable[[int], dict[str, float]], tuple[int, ...]]] = {
    "tables": (tables, (100_000, 1_000_000, 4_000_000)),
    "order": (order, (600_000, 6_000_000, 60_000_000)),
    "shards": (shards, (4, 32, 96)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(KINDS[args.one[0]][0](int(args.one[1]))))
        return
    results: dict[str, list[dict[str, Any]]] = {}
    for kind, (_, sizes) in KINDS.items():
        for n in sizes:
            command = [sys.executable, __file__, "--one", kind, str(n)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.setdefault(kind, []).append({"n": n} | json.loads(done.stdout.splitlines()[-1]))
        shown = Table(kind, *(name for name in results[kind][0] if name != "n"))
        for row in results[kind]:
            shown.add_row(f"{row['n']:,}", *(f"{value:.3g}" for name, value in row.items() if name != "n"))
        Console(width=120).print(shown)
    with atomic_path(RESULTS) as fresh:
        fresh.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
