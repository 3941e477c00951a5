"""Memory and bytes read of the stages that read the whole log, by the length of the log.

    python bench/log_scale.py --rows 10000 100000              # some GB of scratch space
    python bench/log_scale.py --rows 1000000 --folder DIR      # 25 GB, hours beside other work; goes on where it was

A log in the shape of Pick-a-Pic v2, and tiny models of the real classes whose outputs are as large as the real ones'
(bench/log_stages.py). Each stage runs in processes of its own; every fifth of a second their memory is read from /proc:

- held: anonymous and shared memory of all processes, which only ends with them. This is what must fit the machine;
- mapped: pages of files that are mapped at that moment, which the kernel takes back when it needs room.

Bytes read and written are those of system calls (`rchar`, `wchar`), from any disk or cache; pages of mapped files are
not among them. `times` compares those that a stage read with the images of the log, as they lie on disk.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ppd.files import atomic_path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results/log_scale.json"
STAGES = (
    "prepare",
    "ingest",
    "encode",
    *(f"embed {shard}" for shard in range(4)),
    "users",
    "finetune",
    "samples",
    "judge",
    "report",
)
INTERVAL_S = 0.2


def memory(process: psutil.Process) -> tuple[int, int]:
    """(held, mapped) bytes of a process now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith("Rss")}
    return 1024 * (kilobytes["RssAnon"] + kilobytes["RssShmem"]), 1024 * kilobytes["RssFile"]


def watched(command: list[str], log: Path) -> dict[str, float]:
    """Run a command; the peaks of memory over it and all its children, and what they read and wrote."""
    peaks = {"held_gb": 0.0, "mapped_gb": 0.0}
    moved: dict[int, tuple[int, int]] = {}
    start = time.perf_counter()
    with log.open("w") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        tree = psutil.Process(running.pid)
        while running.poll() is None:
            now = [0, 0]
            try:
                for process in [tree, *tree.children(recursive=True)]:
                    held, mapped = memory(process)
                    now = [now[0] + held, now[1] + mapped]
                    io = process.io_counters()
                    moved[process.pid] = (io.read_chars, io.write_chars)
            except (psutil.Error, OSError, KeyError):  # one has just ended
                pass
            peaks = {name: max(peak, value / 1e9) for (name, peak), value in zip(peaks.items(), now, strict=True)}
            time.sleep(INTERVAL_S)
    if running.returncode:
        sys.exit(f"{' '.join(command)} failed: {log.read_text()[-3000:]}")
    read, written = (sum(column) for column in zip(*moved.values(), strict=True))
    return peaks | {"read_gb": read / 1e9, "written_gb": written / 1e9, "wall_s": time.perf_counter() - start}


def bench(n: int, folder: Path) -> list[dict[str, Any]]:
    """All stages on a log of n rows in `folder`; what was measured there before is taken as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "measured.json"
    measured: list[dict[str, Any]] = json.loads(done.read_text()) if done.exists() else []
    for stage in STAGES[len(measured) :]:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if stage == "finetune" else []
        command = [sys.executable, *start, str(ROOT / "bench/log_stages.py"), str(folder), str(n), stage]
        found = watched(command, log := folder / f"{stage.replace(' ', '-')}.log")
        told = [line for line in log.read_text().splitlines() if line.startswith("{")]
        measured.append({"rows": n, "stage": stage} | found | (json.loads(told[-1]) if told else {}))
        with atomic_path(done) as fresh:
            fresh.write_text(json.dumps(measured, indent=1))
        print(json.dumps(measured[-1]), flush=True)
        if stage == "ingest":
            shutil.rmtree(folder / "data/choices")
    images = sum(part.stat().st_size for part in (folder / "artifacts/preferences/images").iterdir()) / 1e9
    return [row | {"images_gb": images} for row in measured]


def table(results: list[dict[str, Any]]) -> Table:
    shown = Table("rows", "stage", "held, GB", "mapped, GB", "read, GB", "times", "written, GB", "read, kB a row")
    for row in results:
        if row["stage"] not in ("prepare", "samples"):
            shown.add_row(
                f"{row['rows']:,}",
                row["stage"],
                f"{row['held_gb']:.2f}",
                f"{row['mapped_gb']:.2f}",
                f"{row['read_gb']:.2f}",
                f"{row['read_gb'] / row['images_gb']:.2f}",
                f"{row['written_gb']:.2f}",
                f"{row['read_gb'] / row['rows'] * 1e6:.2f}",
            )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs/log-scale", help="scratch space; goes when all is done"
    )
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = []
    for n in args.rows:
        results += bench(n, args.folder / str(n))
        shutil.rmtree(args.folder / str(n) / "artifacts", ignore_errors=True)
    Console(width=110).print(table(results))
    known = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    results = [row for row in known if row["rows"] not in args.rows] + results
    machine = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, {platform.machine()}"
    with atomic_path(RESULTS) as fresh:
        fresh.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
