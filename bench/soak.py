"""Both doors and the clock under load, for as long as you like: `python bench/soak.py --minutes 60`.

On the project of bench/small_project.py, with webserver, daemon, sensors and schedule. For the given time a shell edits
and runs `dvc repro`, users arrive, stages are materialised, the schedule fires every two minutes, and runs are
cancelled and killed at random; in the middle the power fails: every process is killed while a run goes on, and Dagster
starts anew. Afterwards nothing may be lost: `dvc status` is clean, Dagster calls stale what DVC does, every user who
arrived is embedded, the history has a line for every evaluation that succeeded, no run holds a place in a pool, and no
process is left.
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pandas as pd
import psutil
import pyarrow.parquet as pq
from rich.console import Console
from served import dagster_dev, graphql, stale, until
from small_log import rows_of
from small_project import DVC, FIRST_USERS, ROOT, build, environment, postgres, run

OUT = ROOT / "bench/results/soak.json"
Log = Callable[[str], None]
Run = dict[str, Any]
LOCATION = {"repositoryLocationName": "ppd", "repositoryName": "__repository__"}
LAUNCH = """mutation ($params: ExecutionParams!) {launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
RUNS = "{runsOrError(limit: 1000) {... on Runs {results {runId status runConfig tags {key value}}}}}"
WHY = """query ($id: ID!) {logsForRun(runId: $id) {... on EventConnection {events {
  ... on RunFailureEvent {message} ... on EngineEvent {message}
  ... on ExecutionStepFailureEvent {stepKey error {message errorChain {error {message}}}}}}}}"""
TERMINATE = "mutation ($id: String!) {terminateRun(runId: $id) {__typename}}"
SCHEDULE = "mutation ($at: ScheduleSelector!) {%s(scheduleSelector: $at) {__typename}}"
SENSOR = "mutation ($at: SensorSelector!) {startSensor(sensorSelector: $at) {__typename}}"
POOLS = "{instance {concurrencyLimits {concurrencyKey claimedSlots {runId stepKey}}}}"
UNDER_WAY = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
HISTORY_OP = "evaluations__history_jsonl"
CAUSES = {
    "its process was gone, said the sensor dead_runs": re.compile(r"The process of this run \(\d+\) is gone"),
    "its process was gone, said the code server": re.compile(r"Run execution process for .* (unexpectedly|was)"),
}
"""Why a run failed whose worker was killed. Any other failure is that of a step."""


@dataclass
class Soak:
    """What happens, by chance or when asked for, and how often it did."""

    root: Path
    base: str = ""
    rng: random.Random = field(default_factory=random.Random)
    counts: Counter[str] = field(default_factory=Counter)
    users: int = FIRST_USERS

    def ask(self, query: str, **variables: object) -> Any:
        return graphql(self.base, query, **variables)

    def runs(self) -> list[Run]:
        return list(self.ask(RUNS)["runsOrError"]["results"])

    def under_way(self, *statuses: str) -> list[str]:
        return [run["runId"] for run in self.runs() if run["status"] in (statuses or UNDER_WAY)]

    def edit_and_repro(self) -> None:
        """Somebody works in a shell. DVC itself does not wait for the paths of a running stage."""
        file = self.rng.choice(["src/ppd/diffusion/adapter/soak.py", "src/ppd/vlm/judges.py", "src/ppd/users/soak.py"])
        with (self.root / file).open("a") as code:
            code.write(f"# {self.rng.random()}\n")
        done = run(self.root, [*DVC, "--wait-for-lock", "repro"], check=False)
        busy = "is busy" in done.stderr
        self.counts["shell: dvc repro, " + ("done" if done.returncode == 0 else "busy" if busy else "failed")] += 1
        if done.returncode and not busy:
            print(done.stderr[-1500:])

    def arrive(self) -> None:
        rows = rows_of(range(self.users, self.users + 2))
        pq.write_table(rows, self.root / f"data/choices/{self.users:04}.parquet")
        self.users += 2
        self.counts["users arrived"] += 2

    def materialise(self, path: str = "") -> str:
        """Of some stage or of this one; the run's id."""
        path = path or self.rng.choice(
            ["models/ppd", "artifacts/samples/ppd", "artifacts/latents", "artifacts/users.parquet"]
        )
        self.counts["materialised"] += 1
        return self._launch("__ASSET_JOB", {}, assetSelection=[{"path": path.split("/")}])

    def evaluate(self, timestamp: str) -> str:
        """What the clock does, without waiting for it; the run's id."""
        return self._launch("reevaluate", evaluation_of(timestamp))

    def _launch(self, job: str, config: dict[str, Any], **selected: object) -> str:
        params = {"selector": LOCATION | {"pipelineName": job} | selected, "runConfigData": config, "mode": "default"}
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        return str(launched["run"]["runId"])

    def cancel(self) -> None:
        if run_ids := self.under_way("STARTED"):
            try:
                self.ask(TERMINATE, id=self.rng.choice(run_ids))
                self.counts["cancelled"] += 1
            except HTTPError:  # of a run that was there when the power failed: the server that started it is gone
                self.counts["cancel of a run without a process"] += 1

    def kill(self) -> None:
        """SIGKILL to the process of a run or of a step of it, which can then end nothing itself."""
        if workers := [each for each in processes(self.root) if _is_worker(each)]:
            with suppress(psutil.Error):
                self.rng.choice(workers).kill()
                self.counts["killed"] += 1

    def power_cut(self) -> None:
        """Nothing of the project has a process any more, while a run goes on for Dagster's storage."""
        while not self.under_way("STARTED"):
            self.materialise("models/ppd")
            with suppress(TimeoutError):
                until(lambda: self.under_way("STARTED"), 120, "the run has ended already, or waits")
        while alive := processes(self.root):
            for process in alive:
                with suppress(psutil.Error):
                    process.kill()
        self.counts["power cuts"] += 1

    def settle(self) -> None:
        """Wait until all that was begun has ended and every user who arrived is embedded."""
        for done, within_s, otherwise in (
            (lambda: not self.under_way(), 1200, "runs do not end"),
            (lambda: n_embedded(self.root) == self.users, 900, "users who arrived are not embedded"),
            (lambda: not self.under_way(), 1200, "runs do not end"),
        ):
            until(done, within_s, otherwise, every_s=2)

    def places(self) -> list[str]:
        """Who holds a place in a pool."""
        pools = self.ask(POOLS)["instance"]["concurrencyLimits"]
        return [f"{pool['concurrencyKey']}: {slot['runId']}" for pool in pools for slot in pool["claimedSlots"]]

    def causes(self) -> Counter[str]:
        """Why runs failed."""
        found: Counter[str] = Counter()
        for run_id in self.under_way("FAILURE"):
            events = self.ask(WHY, id=run_id)["logsForRun"].get("events", [])
            said = " ".join(event.get("message", "") for event in events)
            found[next((cause for cause, words in CAUSES.items() if words.search(said)), _of_steps(events))] += 1
        return found


def _of_steps(events: Sequence[dict[str, Any]]) -> str:
    """What the steps that failed said last."""
    said = []
    for failed in (event for event in events if event.get("error")):
        errors = [failed["error"], *(link["error"] for link in failed["error"]["errorChain"])]
        said.append(f"{failed['stepKey']}: {errors[-1]['message'].strip().splitlines()[-1][-160:]}")
    return "; ".join(said) or "nothing is said"


def _is_worker(process: psutil.Process) -> bool:
    """A process that Dagster started for one run or for one step of it."""
    with suppress(psutil.Error):
        command, parent = " ".join(_command(process)), process.parent()
        return "execute_run" in command or ("multiprocessing.spawn" in command and parent is not None)
    return False


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def processes(root: Path, variable: str = "DAGSTER_HOME") -> list[psutil.Process]:
    """Every process that works for this project, or those of them that have this variable in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            have = process.environ()
            own = have.get("DAGSTER_HOME") == str(root / ".dagster") and variable in have
            if own and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def evaluation_of(timestamp: str) -> dict[str, Any]:
    """The configuration of a run that evaluates as of this timestamp."""
    return {"ops": {HISTORY_OP: {"ops": {"evaluate": {"config": {"date": timestamp}}}}}}


def timestamp_of(run: Run) -> str:
    """Of a re-evaluation; empty for other runs."""
    op = run["runConfig"].get("ops", {}).get(HISTORY_OP, {})
    return str(op.get("ops", {}).get("evaluate", {}).get("config", {}).get("date", ""))


def by_the_clock(run: Run) -> bool:
    return {"key": "dagster/schedule_name", "value": "reevaluation"} in run["tags"]


def n_embedded(root: Path) -> int:
    shards = [pd.read_parquet(file, columns=["user_id"]) for file in root.glob("artifacts/users/*/embeddings.parquet")]
    return int(pd.concat(shards).user_id.nunique()) if shards else 0


def dates_of(root: Path) -> list[str]:
    file = root / "evaluations/history.jsonl"
    return [json.loads(line)["date"] for line in file.read_text().splitlines()] if file.exists() else []


def losses(root: Path, runs: Sequence[Run], stages: Sequence[str] = ()) -> dict[str, Any]:
    """What is not as it should be when all has ended: evaluations, `dvc status`, processes. Empty when all is well.

    stages: of which to ask `dvc status`; all of them without.
    """
    evaluated = {timestamp_of(run) for run in runs if run["status"] == "SUCCESS"} - {""}
    dates = dates_of(root)
    found = {
        "evaluations without a line": sorted(evaluated - set(dates)),
        "lines twice": [date for date, n in Counter(dates).items() if n > 1],
        "dvc status": json.loads(run(root, [*DVC, "status", "--json", *stages]).stdout),
        "processes left": [" ".join(_command(each)) for each in processes(root)],
    }
    return {what: lost for what, lost in found.items() if lost}


def soak(root: Path, minutes: float, seed: int, log: Log, port: int) -> dict[str, Any]:
    """Let it happen for so long, wait for the end, and find out what was lost. Figures; `lost` should be empty."""
    happening = Soak(root, rng=random.Random(seed))
    acts = [happening.edit_and_repro, happening.arrive, happening.materialise, happening.cancel, happening.kill]

    def let_it_happen() -> None:
        happening.ask(SCHEDULE % "startSchedule", at=LOCATION | {"scheduleName": "reevaluation"})
        happening.ask(SENSOR, at=LOCATION | {"sensorName": "embed_arrivals"})
        deadline = time.monotonic() + 30 * minutes
        while (left := deadline - time.monotonic()) > 0:
            [act] = happening.rng.choices(acts, weights=[4, 2, 4, 2, 1])
            act()
            log(f"{left / 60:5.1f} min left of this half: {dict(happening.counts)}")
            time.sleep(happening.rng.uniform(2, 10))

    with dagster_dev(root, port, environment(root)) as happening.base:
        let_it_happen()
        happening.power_cut()
        log("the power failed")
    with dagster_dev(root, port, environment(root)) as happening.base:
        let_it_happen()
        happening.ask(SCHEDULE % "resetSchedule", at=LOCATION | {"scheduleName": "reevaluation"})
        log("the end: waiting for runs that are under way")
        happening.settle()
        left = [" ".join(_command(each)) for each in processes(root, "PPD_PROCESS_TREE")]
        run(root, [*DVC, "--wait-for-lock", "repro"])
        until(lambda: not stale(happening.base), 300, "Dagster calls stale what DVC does not")
        until(lambda: not happening.places(), 120, f"places in pools are held by nobody: {happening.places()}")
        runs, causes = happening.runs(), happening.causes()
    return {
        "minutes": minutes,
        "happened": dict(sorted(happening.counts.items())),
        "runs": dict(sorted(Counter(r["status"] for r in runs).items())),
        "failed because": dict(causes),
        "fired by the clock": sum(map(by_the_clock, runs)),
        "lines of history": len(dates_of(root)),
        "users": happening.users,
        "lost": losses(root, runs) | ({"processes left by runs": left} if left else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=3333, help="of the webserver")
    parser.add_argument("--postgres", action="store_true", help="Dagster's storage: Debian's Postgres, not SQLite")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, postgres() if arguments.postgres else nullcontext() as url:
        root = Path(folder)
        build(root, url)
        figures = soak(root, arguments.minutes, arguments.seed, console.print, arguments.port)
    figures["storage"] = "Postgres" if arguments.postgres else "SQLite"
    console.print(figures)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(bool(figures["lost"]))


if __name__ == "__main__":
    main()
