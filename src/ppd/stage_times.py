"""How long each stage took and how much memory it needed, written down as they run."""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class StageTime:
    """One finished run of a stage. `started` in ISO 8601, UTC; `peak_mib` of this process alone."""

    stage: str
    started: str
    wall_s: float
    cpu_s: float
    peak_mib: float


@contextmanager
def timed(stage: str, journal: Path) -> Iterator[None]:
    """Append a `StageTime` to `journal` when the block succeeds; of several processes the first one does."""
    started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    yield
    if os.environ.get("RANK", "0") != "0":
        return
    took = StageTime(
        stage,
        started.isoformat(timespec="seconds"),
        round(time.perf_counter() - wall, 2),
        round(time.process_time() - cpu, 2),
        round(peak_mib(), 1),
    )
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:  # one short line: two stages at once cannot mix theirs
        file.write(json.dumps(asdict(took)) + "\n")


def latest(journal: Path) -> list[StageTime]:
    """The last run of every stage, in the order in which they last ran. A line that a power cut has torn is no run."""
    if not journal.exists():
        return []
    runs: dict[str, StageTime] = {}
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            run = StageTime(**json.loads(line))
        except (ValueError, TypeError):
            continue
        runs.pop(run.stage, None)
        runs[run.stage] = run
    return list(runs.values())


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)  # bytes there, KiB elsewhere
