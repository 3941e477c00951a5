"""Throughput and peak memory of ingestion, at 100,000 and at 1,000,000 rows.

    python bench/ingest.py                                  # some 3 minutes of CPU time, 4 GB of scratch space
    python bench/ingest.py --rows 10000 20000               # a quick look
    python bench/ingest.py --rows 3000 --image-px 768       # images of the real size, row groups of 400 MB

Rows are schema-true Pick-a-Pic v2 with small real JPEGs, streamed to disk in shards: sessions of a few rows in which
the winner is kept for the next round, 12 % ties, about 280 rows a user. Each size is ingested in a process of its own,
whose peak resident memory is read from Linux's /proc. To pass: under 2 GB at the largest size, and a CPU time per row
at the largest size within 15 % of that at the smallest.
"""

import argparse
import datetime
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from ppd.preferences.ingest import ingest
from ppd.preferences.schema import PICK_A_PIC
from ppd.settings import PreferenceSettings

SHARD_ROWS, GROUP_ROWS = 20_000, 1_000
ROWS_A_USER, TIES, N_CAPTIONS_PER_ROW = 280, 0.12, 0.07
N_PICTURES = 512


def jpegs(image_px: int) -> list[bytes]:
    """A few real JPEGs, about 3 bits a pixel; `numbered` makes a file of its own of each use."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(N_PICTURES):
        coarse = rng.integers(0, 256, (image_px // 8, image_px // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((image_px, image_px), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    return pictures


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture with its number in a comment segment: other bytes, still a whole JPEG."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + jpeg[2:]


def rows(
    n: int, pictures: list[bytes], *, users: Sequence[int] | None = None, n_captions: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of the log one after another; the seed is fixed. users: whose each session is, if not drawn evenly."""
    rng = np.random.default_rng(1)
    n_users, n_captions = max(4, n // ROWS_A_USER), n_captions or max(20, int(n * N_CAPTIONS_PER_ROW))
    session_rows, n_images = 0, 0
    kept = user = caption = 0
    start = datetime.datetime(2023, 2, 1)
    for number in range(n):
        if session_rows == 0:
            session_rows, user, caption = (
                int(rng.integers(1, 8)),
                int(rng.integers(n_users)) if users is None else users[number],
                int(rng.integers(n_captions)),
            )
            kept, n_images = n_images, n_images + 1
        new, n_images = n_images, n_images + 1
        session_rows -= 1
        first, second = (kept, new) if rng.random() < 0.5 else (new, kept)
        outcome = rng.random()
        label = 0.5 if outcome < TIES else float(outcome < (1 + TIES) / 2)
        if label != 0.5:
            kept = first if label == 1 else second
        uids = [f"{image:08x}-0000-4000-8000-{image * 2654435761 % 2**48:012x}" for image in (first, second)]
        yield {
            "are_different": True,
            "best_image_uid": "tie" if label == 0.5 else uids[0 if label == 1 else 1],
            "caption": f"a picture of thing number {caption}, in the style of somebody, highly detailed, 4k",
            "created_at": start + datetime.timedelta(seconds=20 * number),
            "has_label": True,
            "image_0_uid": uids[0],
            "image_0_url": f"https://example.org/images/{uids[0]}.png",
            "image_1_uid": uids[1],
            "image_1_url": f"https://example.org/images/{uids[1]}.png",
            "jpg_0": numbered(pictures[first % N_PICTURES], first),
            "jpg_1": numbered(pictures[second % N_PICTURES], second),
            "label_0": label,
            "label_1": 1 - label,
            "model_0": "a-model",
            "model_1": "another-model",
            "ranking_id": number,
            "user_id": user,
            "num_example_per_prompt": 1,
            "__index_level_0__": number,
        }


def synthesise(n: int, image_px: int, folder: Path) -> int:
    """Write `n` rows in shards, a row group in memory at a time; returns their bytes on disk."""
    folder.mkdir(parents=True)
    log = rows(n, jpegs(image_px))
    for shard in range(-(-n // SHARD_ROWS)):
        with pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", PICK_A_PIC) as writer:
            for start in range(shard * SHARD_ROWS, min(n, (shard + 1) * SHARD_ROWS), GROUP_ROWS):
                group = [next(log) for _ in range(min(GROUP_ROWS, n - start))]
                writer.write_table(pa.Table.from_pylist(group, PICK_A_PIC))
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(log: Path, out: Path) -> dict[str, float]:
    """Ingest `log` in this process; seconds of wall clock and of all cores, and the peak of resident memory."""
    wall, cpu = time.perf_counter(), time.process_time()
    summary = ingest(PreferenceSettings(), log, out)
    return {
        "n_pairs": summary["n_pairs"],
        "n_images": summary["n_images"],
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_mb": peak_rss_bytes() / 1e6,
    }


def peak_rss_bytes() -> int:
    """Peak resident memory of this program (`getrusage` would count what its parent held before the exec)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def bench(n: int, image_px: int, scratch: Path) -> dict[str, float]:
    """Write a log of `n` rows, ingest it in a fresh process, delete both."""
    log, out = scratch / f"log-{n}", scratch / f"out-{n}"
    try:
        log_bytes = synthesise(n, image_px, log)
        command = [sys.executable, __file__, "--measure", str(log), str(out)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return {"rows": n, "log_mb": log_bytes / 1e6, **json.loads(done.stdout)}
    finally:
        shutil.rmtree(log, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)


def report(results: list[dict[str, float]]) -> tuple[Table, bool]:
    """The table, and whether memory and scaling are as they must be."""
    table = Table("rows", "log, MB", "pairs", "images", "wall, s", "CPU, s", "rows/s", "CPU µs/row", "peak RSS, MB")
    for result in results:
        n = result["rows"]
        table.add_row(
            f"{n:,}",
            f"{result['log_mb']:,.0f}",
            f"{result['n_pairs']:,}",
            f"{result['n_images']:,}",
            f"{result['wall_s']:.1f}",
            f"{result['cpu_s']:.1f}",
            f"{n / result['wall_s']:,.0f}",
            f"{result['cpu_s'] / n * 1e6:.0f}",
            f"{result['peak_rss_mb']:,.0f}",
        )
    first, last = results[0], results[-1]
    # CPU time: on a machine that others use too, wall time says how much they did.
    growth = (last["cpu_s"] / last["rows"]) / (first["cpu_s"] / first["rows"]) - 1
    table.caption = f"CPU time per row, largest against smallest: {growth:+.1%}"
    return table, last["peak_rss_mb"] < 2000 and growth < 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--json", type=Path, default=Path("bench/results/ingest.json"))
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("LOG", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="ppd-bench-") as scratch:
        results = [bench(n, args.image_px, Path(scratch)) for n in args.rows]
    table, passed = report(results)
    Console(width=120).print(table)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"cores": os.cpu_count(), "passed": passed, "results": results}, indent=2) + "\n")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
