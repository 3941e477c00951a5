"""Ten visitors at once: nothing lost, none waiting without being told, and how long each step takes.

`python bench/studio_load.py` starts `ppd studio`, lets one visitor through alone, then ten at the same time, each
choosing four times, waiting for eight pictures of theirs, and judging a round. It counts what the studio has written
down against what it was told, and writes the times to bench/results/studio_load.json.
"""

import argparse
import json
import os
import re
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from studio_visitor import Visitor, studio, text_of

OUT = Path("bench/results/studio_load.json")
SAYS_WHERE = re.compile(r"(Being drawn, about \d+ s|\d+ drawings? (is|are) before this one: about \d+ s)")


@dataclass
class Stay:
    """What one visitor lived through, in seconds."""

    next_pair: list[float]
    eight_pictures: float
    round_ready: float
    votes: int
    untold: int
    """Answers, while something was being drawn, that did not say how long."""


def stay(address: str) -> Stay:
    """From the first page to the end of a round."""
    visitor = Visitor.arrive(address)
    next_pair, untold = [], 0
    for at in range(4):
        visitor.pair()
        began = time.perf_counter()
        visitor.send("/vote", choice="left" if at % 2 else "right")
        if at < 3:
            visitor.pair()  # with its pictures
            next_pair.append(time.perf_counter() - began)
    fourth = time.perf_counter()
    looks = dict.fromkeys(re.findall(r'id="drawing-(\d+)"', visitor.page))
    while True:
        texts = [visitor.open(f"/drawing/{look}", partial=True) for look in looks]
        mine = [path for text in texts for path in re.findall(r'<img src="(\S+)" alt="For you', text)]
        untold += sum("aria-busy" in text and not SAYS_WHERE.search(text_of(text)) for text in texts)
        if len(mine) >= 8:
            for path in mine:
                visitor.file(path)
            break
        time.sleep(0.5)
    eight = time.perf_counter() - fourth
    visitor.open("/see")
    began = time.perf_counter()
    visitor.send("/round")
    ready, votes = 0.0, 4
    while "Your verdict" not in visitor.page:
        if "data-answer" in visitor.page:
            ready = ready or time.perf_counter() - began
            visitor.pair()
            visitor.send("/vote", choice="left")
            votes += 1
            continue
        untold += not SAYS_WHERE.search(text_of(visitor.page))
        time.sleep(0.6)
        visitor.open("/judge")
    return Stay(next_pair, eight, ready, votes, untold)


def summary(stays: list[Stay]) -> dict[str, object]:
    """Median and worst of what they waited."""
    pairs = np.concatenate([one.next_pair for one in stays])
    eights, rounds = (np.array([getattr(one, name) for one in stays]) for name in ("eight_pictures", "round_ready"))
    seconds = {"next_pair": pairs, "eight_pictures": eights, "round_ready": rounds}
    worst = {name: {"median_s": float(np.median(s)), "worst_s": float(s.max())} for name, s in seconds.items()}
    return {"visitors": len(stays), **worst, "answers_that_did_not_say_how_long": sum(one.untold for one in stays)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--project", type=Path, default=Path(), help="where params.yaml and artifacts/ are")
    parser.add_argument("--adapter", type=Path, default=Path("models/ppd"))
    parser.add_argument("--pools", type=Path, help="pictures to choose from that an earlier studio has drawn")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.pools:
            (folder / "pools").symlink_to(arguments.pools.resolve())
        with studio(arguments.project.resolve(), arguments.adapter, folder) as address:
            first = Visitor.arrive(address)
            first.open("/choose")
            first.pair()  # once the pool is there
            load = os.getloadavg()[0]
            alone = [stay(address)]
            with ThreadPoolExecutor(arguments.visitors) as pool:
                together = list(pool.map(stay, [address] * arguments.visitors))
            with sqlite3.connect(folder / "studio.sqlite") as database:
                [written] = database.execute("SELECT count(*) FROM votes WHERE undone_at IS NULL").fetchone()
    told = sum(one.votes for one in [*alone, *together])
    result = {
        "load_average_before": load,
        "cores": os.cpu_count(),
        "alone": summary(alone),
        "at_once": summary(together),
        "votes_given": told,
        "votes_written": written,
    }
    Console().print(json.dumps(result, indent=1))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if told != written:
        raise SystemExit("votes were lost")


if __name__ == "__main__":
    main()
