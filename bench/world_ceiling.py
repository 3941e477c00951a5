"""Print the exact-Bayes ceiling of the sticker world: `python bench/world_ceiling.py` (one core, about a minute)."""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ppd.settings import load_settings
from ppd.simulation.truth.ceiling import ceilings
from ppd.statistics.bootstrap import Interval

N_PEOPLE = 1024
OUT = Path("bench/results/world_ceiling.json")


def cell(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def main() -> None:
    rows = ceilings(load_settings("params.yaml").people, N_PEOPLE)
    table = Table(
        "pairs", "judge", "cosine", "R²", "best of 64", "top 5 of 64", title=f"Exact Bayes, {N_PEOPLE} people"
    )
    for row in rows:
        table.add_row(
            str(row.n_pairs), cell(row.judge), cell(row.cosine), f"{row.r2:.3f}", cell(row.best_of), cell(row.top_5)
        )
    Console(width=140).print(table)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
