"""What a tick of each sensor costs at the paper's sizes: `python bench/sensor_ticks.py` (some minutes, 2 GB of disk).

5,000 users, embeddings of 14,000 dimensions, the project of bench/small_project.py: the log is really ingested,
embeddings are random numbers. Ticks are evaluated in this process, as the code server does, with a watch list of 200;
each line is one tick. Then one user arrives: from the file in data/choices to the embedding, through the sensor's own
runs.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import small_project
from rich.console import Console
from small_log import rows_of

WATCHED, TICKS = 200, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--width", type=int, default=14000)
    arguments = parser.parse_args()
    os.environ["SOAK_WIDTH"] = str(arguments.width)
    log = Console().print
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        small_project.build(root, None, first_run=False, users=arguments.users)
        for stage in ("ingest", "embed"):
            started = time.monotonic()
            small_project.run(root, [*small_project.DVC, "repro", "-q", "--single-item", *_items(stage)])
            log(f"{stage}: {time.monotonic() - started:.0f} s")
        os.environ.update(small_project.environment(root))
        os.chdir(root)
        sys.path.insert(0, str(root))
        measure(root, log)


def _items(stage: str) -> list[str]:
    return [f"{stage}@s-{at:02}" for at in range(small_project.N_SHARDS)] if stage == "embed" else [stage]


def measure(root: Path, log: Callable[[str], None]) -> None:
    import dagster as dg

    from orchestration.definitions import build_definitions
    from orchestration.users import WATCH_LIST

    users = pd.read_parquet(root / "artifacts/preferences/users.parquet")
    users.assign(profile="likes ink", embedding_norm=1.0, version="0").to_parquet(root / "artifacts/users.parquet")
    defs = build_definitions(root)
    with dg.DagsterInstance.get() as instance:
        repository = defs.get_repository_def()
        instance.add_dynamic_partitions(WATCH_LIST.name or "", users.user_id[:WATCHED].tolist())

        def tick(name: str, cursor: str | None = None) -> tuple[object, str | None]:
            context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
            cpu, wall = time.process_time(), time.monotonic()
            found = defs.resolve_sensor_def(name).evaluate_tick(context)
            said = found.skip_message or f"{len(found.run_requests or [])} runs requested"
            log(f"{name}: {time.process_time() - cpu:.1f} s of CPU, {time.monotonic() - wall:.1f} s: {said}")
            return found, context.cursor

        for name, done in (("dvc_state", "Nothing changed"), ("watched_users", "No user is new")):
            cursor = None
            for _ in range(TICKS):
                found, cursor = tick(name, cursor)
                if done in (found.skip_message or ""):
                    break
        arrived = time.monotonic()
        rows = rows_of(range(len(users) + 1000, len(users) + 1001))
        pq.write_table(rows, root / "data/choices/new.parquet")
        for _ in range(TICKS):
            found, _ = tick("embed_arrivals")
            if not found.run_requests:
                break
            for request in found.run_requests:
                job = defs.resolve_job_def(request.job_name)
                started = time.monotonic()
                job.execute_in_process(instance=instance, partition_key=request.partition_key, tags=request.tags)
                log(f"  {request.job_name} {request.partition_key or ''}: {time.monotonic() - started:.1f} s")
        log(f"from the arrival of one user to their embedding: {time.monotonic() - arrived:.0f} s")
        tick("watched_users")


if __name__ == "__main__":
    main()
