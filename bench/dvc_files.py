"""What DVC costs by bytes and by the number of files: `dvc add` of a folder, and `dvc status` when nothing changed.

    python bench/dvc_files.py                              # three folders of small files, one file of a gigabyte

In a repository of its own that is thrown away; links instead of copies, as docs/paper-scale.md advises. Seconds are of
CPU time of DVC and its threads, so that other work on the machine counts little; memory is the peak of the process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ppd.files import atomic_path

RESULTS = Path(__file__).parents[1] / "bench/results/dvc_files.json"
SMALL_BYTES, FILES_A_FOLDER = 2_000, 1_000


def dvc(repository: Path, *arguments: str) -> tuple[float, float]:
    """Run a command of DVC's; (CPU seconds, peak memory in GB)."""
    running = subprocess.Popen([sys.executable, "-m", "dvc", "-q", *arguments], cwd=repository)
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        sys.exit(f"dvc {' '.join(arguments)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def measured(n_files: int, n_bytes: int) -> dict[str, float]:
    """A folder of so many files with so many bytes each, added and looked at again."""
    with tempfile.TemporaryDirectory(prefix="ppd-dvc-") as scratch:
        repository = Path(scratch)
        subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
        dvc(repository, "init")
        dvc(repository, "config", "cache.type", "hardlink,symlink")
        dvc(repository, "config", "core.analytics", "false")
        for number in range(n_files):
            folder = repository / "data" / f"{number // FILES_A_FOLDER:04d}"
            if number % FILES_A_FOLDER == 0:
                folder.mkdir(parents=True)
            with (folder / f"{number:08d}").open("wb") as file:
                for start in range(0, n_bytes, 1 << 20):
                    file.write(os.urandom(min(1 << 20, n_bytes - start)))
        added, peak = dvc(repository, "add", "data")
        looked, looked_peak = dvc(repository, "status")
        listing = max((path.stat().st_size for path in (repository / ".dvc/cache/files").rglob("*.dir")), default=0)
    return {
        "files": n_files,
        "bytes_each": n_bytes,
        "add_cpu_s": added,
        "status_cpu_s": looked,
        "peak_gb": max(peak, looked_peak),
        "listing_bytes": listing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 5_000, 25_000])
    parser.add_argument("--large", type=int, default=1 << 30, help="bytes of the one large file")
    args = parser.parse_args()
    results = [measured(n, SMALL_BYTES) for n in args.files] + [measured(1, args.large)]
    table = Table("files", "bytes each", "add, CPU s", "status, CPU s", "peak, GB", "listing, bytes a file")
    for row in results:
        each = row["listing_bytes"] / row["files"]
        figures = (f"{row[name]:.2f}" for name in ("add_cpu_s", "status_cpu_s", "peak_gb"))
        table.add_row(f"{row['files']:,}", f"{row['bytes_each']:,}", *figures, f"{each:.0f}")
    first, last, large = results[0], results[-2], results[-1]
    slope = (last["add_cpu_s"] - first["add_cpu_s"]) / (last["files"] - first["files"]) if len(results) > 2 else 0
    console = Console(width=100)
    console.print(table)
    rate = large["bytes_each"] / (large["add_cpu_s"] - first["add_cpu_s"] + first["files"] * slope) / 1e6
    console.print(f"{slope * 1e3:.2f} ms of CPU a file added; {rate:.0f} MB/s of a large file, without DVC's start")
    with atomic_path(RESULTS) as fresh:
        fresh.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
