"""Both doors and the clock under load, for as long as you like: `python bench/soak.py --minutes 60`.

A copy of the graph with four shards. Ingestion, the manifest, DVC, Dagster (webserver, daemon, sensors, schedule) and
`ppd reevaluate` are the real ones; the stages that need a model are stand-ins that take two seconds, in a worker with a
session of its own, as under torchrun. For the given time a shell edits and runs `dvc repro`, users arrive, stages are
materialised, the schedule fires every two minutes, and runs are cancelled and killed at random. Afterwards nothing may
be lost: `dvc status` is clean, Dagster calls stale what DVC does, every user who arrived is embedded, the history has a
line for every evaluation that succeeded, and no process is left.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
from rich.console import Console
from ruamel.yaml import YAML
from served import dagster_dev, graphql, until
from small_log import rows_of

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench/results/soak.json"
DVC = [sys.executable, "-m", "dvc"]
FIRST_USERS, N_SHARDS = 24, 4
MODELLED = ("embed", "encode", "finetune@dpo", "finetune@ppd", "sample@ppd", "judge", "report", "users", "ingest")
STAND_INS = '''
"""Stands for the stages that need a model: the same files, of random numbers, by a worker in its own session."""
import json, os, shutil, subprocess, sys, time
import numpy as np, pandas as pd
from ppd.files import atomic_path
from ppd.real_stages import ingest, truth, users
from ppd.users.embeddings import VlmRef, write_rows

def _work():
    code = "import time; time.sleep(2)"
    assert subprocess.run([sys.executable, "-c", code], start_new_session=True).returncode == 0

def _files(**texts):
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

def encode(settings, layout):
    _work()
    with atomic_path(layout.latents) as fresh:
        fresh.mkdir()
        (fresh / "numbers.json").write_text("{}")

def embed(settings, layout, shard):
    _work()
    pairs = pd.read_parquet(layout.preferences / "support" / f"{shard}.parquet")
    parts = pairs.groupby(["user_id", "support_group"]).caption.agg("".join).reset_index()
    seeds = [abs(hash(row)) % 2**32 for row in parts.itertuples(index=False, name=None)]
    width = int(os.environ.get("SOAK_WIDTH", "32"))
    hidden = [np.random.default_rng(seed).normal(size=width).astype("float32") for seed in seeds]
    table = parts.rename(columns={"caption": "key"}).assign(profile="likes ink", shape=[[1, width]] * len(parts))
    write_rows(layout.shard(shard), table.assign(hidden=hidden).to_dict("records"), VlmRef("stand-in", "1"))

def finetune(settings, layout, method):
    _work()
    with atomic_path(layout.trained / method) as fresh:
        fresh.mkdir()
        (fresh / "config.json").write_text(json.dumps({"base": "stand-in", "whitening": ""}))
        (fresh / "adapter.safetensors").write_text(str(time.time()))
        columns = ["loss", "grad_norm", "held_out_accuracy", "seen_accuracy", "held_out_accuracy_shuffled_user"]
        pd.DataFrame([[0.6931, 1.0, 0.5, 0.5, 0.5]], columns=columns).to_csv(fresh / "curve.csv", index_label="step")

def adapter(settings, layout, method):
    with atomic_path(layout.models / method) as fresh:
        shutil.copytree(layout.trained / method, fresh)

def sample(settings, layout, method):
    _work()
    with atomic_path(layout.samples / method) as fresh:
        fresh.mkdir()
        (fresh / "numbers.json").write_text(str(time.time()))

def judge(settings, layout):
    _work()
    with atomic_path(layout.verdicts) as fresh:
        fresh.mkdir()
        (fresh / "numbers.json").write_text("{}")

def report(settings, layout):
    from PIL import Image
    rate = {"method": "ppd", "opponent": "base", "users": "unseen", "judge": "vlm", "pairing": "independent"}
    rate |= {"win_rate": 0.7, "ci_low": 0.65, "ci_high": 0.75, "n_users": 4, "n_comparisons": 64}
    layout.reports.mkdir(exist_ok=True)
    (layout.reports / "win_rates.json").write_text(json.dumps([rate]))
    (layout.reports / "metrics.json").write_text(json.dumps({"judge.consistency.verdicts": 0.9}))
    (layout.reports / "index.html").write_text("<p>stand-in</p>")
    Image.new("RGB", (64, 64)).save(layout.reports / "win_rates.png")
'''


def environment(root: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "DAGSTER_HOME": str(root / ".dagster"),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }


def run(root: Path, command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done


def build(root: Path, storage: str | None, first_run: bool = True, users: int = FIRST_USERS) -> None:
    """The project after its first `dvc repro`. storage: the URL of a Postgres for Dagster in place of SQLite."""
    for folder in ("orchestration", "src"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "src/ppd/stages.py").rename(root / "src/ppd/real_stages.py")
    (root / "src/ppd/stages.py").write_text(STAND_INS)
    for file in ("workspace.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / file, root / file)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["preferences"] |= {"n_shards": N_SHARDS}
    params["embedding"] |= {"components": 4, "rows": [0]}
    params["reevaluation"] |= {"cron": "*/2 * * * *"}
    pipeline = yaml.load(ROOT / "dvc.yaml")
    for stage in pipeline["stages"].values():
        made = ("artifacts", "models", "src/", "data/choices")
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith(made)]
    pipeline["stages"]["finetune"]["cmd"] = "ppd stage finetune --method ${item.method}"
    for name, content in (("params.yaml", params), ("dvc.yaml", pipeline)):
        with (root / name).open("w") as file:
            yaml.dump(content, file)
    (root / "data/choices").mkdir(parents=True)
    pq.write_table(rows_of(range(users)), root / "data/choices/0000.parquet")
    home = root / ".dagster"
    home.mkdir()
    settings = (ROOT / "orchestration/dagster.yaml").read_text()
    if storage:
        settings += "storage:\n  postgres:\n    postgres_url: {env: DAGSTER_POSTGRES_URL}\n"
    (home / "dagster.yaml").write_text(settings)
    for command in (["git", "init", "-q"], [*DVC, "init", "-q"], [*DVC, "add", "-q", "data"]):
        run(root, command)
    if first_run:
        run(root, [*DVC, "repro", "-q"])


@contextmanager
def postgres(port: int = 3455) -> Iterator[str]:
    """A Postgres of Debian's package postgresql, in a folder of its own; yields its URL. Needs dagster-postgres."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    with tempfile.TemporaryDirectory() as folder:
        owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
        if owner:
            shutil.chown(folder, "postgres")

        def do(program: str, *arguments: str) -> None:
            command = [*owner, str(programs / program), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

        data = f"{folder}/data"
        do("initdb", "-D", data, "-A", "trust", "-U", "dagster")
        do("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", f"-p {port} -k {folder} -h 127.0.0.1", "start")
        try:
            do("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster")
            url = f"postgresql+psycopg2://dagster@127.0.0.1:{port}/dagster"
            os.environ["DAGSTER_POSTGRES_URL"] = url
            yield url
        finally:
            do("pg_ctl", "-D", data, "-m", "fast", "stop")


Log = Callable[[str], None]
LOCATION = {"repositoryLocationName": "ppd", "repositoryName": "__repository__"}
LAUNCH = """mutation ($params: ExecutionParams!) {launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
RUNS = "{runsOrError(limit: 1000) {... on Runs {results {runId status pipelineName tags {key value}}}}}"
TERMINATE = "mutation ($id: String!) {terminateRun(runId: $id) {__typename}}"
SCHEDULE = "mutation ($at: ScheduleSelector!) {%s(scheduleSelector: $at) {__typename}}"
SENSOR = "mutation ($at: SensorSelector!) {startSensor(sensorSelector: $at) {__typename}}"
STALE = "{assetNodes {assetKey {path} staleStatus groupName}}"
UNDER_WAY = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")


@dataclass
class Soak:
    """What happens, by chance, and how often it did."""

    root: Path
    ask: Callable[..., Any]
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    users: int = FIRST_USERS

    def runs(self) -> list[dict[str, Any]]:
        return list(self.ask(RUNS)["runsOrError"]["results"])

    def edit_and_repro(self) -> None:
        """Somebody works in a shell. DVC itself does not wait for the paths of a running stage."""
        file = self.rng.choice(["src/ppd/diffusion/adapter/soak.py", "src/ppd/vlm/judges.py", "src/ppd/users/soak.py"])
        with (self.root / file).open("a") as code:
            code.write(f"# {self.rng.random()}\n")
        done = run(self.root, [*DVC, "--wait-for-lock", "repro", "-q"], check=False)
        busy = "is busy" in done.stderr
        self.counts["shell: dvc repro, " + ("done" if done.returncode == 0 else "busy" if busy else "failed")] += 1
        if done.returncode and not busy:
            print(done.stderr[-1500:])

    def arrive(self) -> None:
        rows = rows_of(range(self.users, self.users + 2))
        pq.write_table(rows, self.root / f"data/choices/{self.users:04}.parquet")
        self.users += 2
        self.counts["users arrived"] += 2

    def materialise(self) -> None:
        path = self.rng.choice(["models/ppd", "artifacts/samples/ppd", "artifacts/latents", "artifacts/users.parquet"])
        selector = LOCATION | {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": path.split("/")}]}
        self.ask(LAUNCH, params={"selector": selector, "runConfigData": {}, "mode": "default"})
        self.counts["materialised"] += 1

    def cancel(self) -> None:
        if run_ids := [run["runId"] for run in self.runs() if run["status"] == "STARTED"]:
            self.ask(TERMINATE, id=self.rng.choice(run_ids))
            self.counts["cancelled"] += 1

    def kill(self) -> None:
        """SIGKILL to the process of a run, which can then end nothing itself."""
        workers = [each for each in _processes(self.root) if "execute_run" in " ".join(_command(each))]
        workers += [each for each in _processes(self.root) if _is_step(each)]
        if workers:
            with suppress(psutil.Error):
                self.rng.choice(workers).kill()
                self.counts["killed"] += 1


def _is_step(process: psutil.Process) -> bool:
    """A process that Dagster's executor started for one step, or for a run inside its code server."""
    with suppress(psutil.Error):
        parent = process.parent()
        return "multiprocessing.spawn" in " ".join(_command(process)) and parent is not None
    return False


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _processes(root: Path) -> list[psutil.Process]:
    """Every process that works for this project."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            own = process.environ().get("DAGSTER_HOME") == str(root / ".dagster")
            if own and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def soak(root: Path, minutes: float, seed: int, log: Log, port: int = 3333) -> dict[str, Any]:
    """Let it happen for so long, wait for the end, and find out what was lost. Figures; `lost` should be empty."""
    with dagster_dev(root, port, environment(root)) as base:
        ask = partial(graphql, base)
        happening = Soak(root, ask, random.Random(seed))
        ask(SCHEDULE % "startSchedule", at=LOCATION | {"scheduleName": "reevaluation"})
        ask(SENSOR, at=LOCATION | {"sensorName": "embed_arrivals"})
        acts = [happening.edit_and_repro, happening.arrive, happening.materialise, happening.cancel, happening.kill]
        deadline = time.monotonic() + 60 * minutes
        while time.monotonic() < deadline:
            [act] = happening.rng.choices(acts, weights=[4, 2, 4, 2, 1])
            act()
            log(f"{(deadline - time.monotonic()) / 60:5.1f} min left: {dict(happening.counts)}")
            time.sleep(happening.rng.uniform(2, 10))
        ask(SCHEDULE % "resetSchedule", at=LOCATION | {"scheduleName": "reevaluation"})
        log("the end: waiting for runs that are under way")
        until(lambda: not [r for r in happening.runs() if r["status"] in UNDER_WAY], 1200, "runs do not end")
        until(lambda: _all_embedded(root, happening.users), 600, "users who arrived are not embedded")
        until(lambda: not [r for r in happening.runs() if r["status"] in UNDER_WAY], 1200, "runs do not end")
        left = [each for each in _processes(root) if "PPD_PROCESS_TREE" in _environ(each)]
        run(root, [*DVC, "--wait-for-lock", "repro", "-q"])
        until(lambda: not stale(ask), 300, f"Dagster calls stale what DVC does not: {stale(ask)}")
        runs = happening.runs()
    status = json.loads(run(root, [*DVC, "status", "--json"]).stdout)
    evaluated = {_timestamp(r) for r in runs if r["status"] == "SUCCESS" and _timestamp(r)}
    history = (root / "evaluations/history.jsonl").read_text().splitlines() if evaluated else []
    dates = [json.loads(line)["date"] for line in history]
    lost = {
        "processes left": [" ".join(_command(each)) for each in [*left, *_processes(root)]],
        "dvc status": status,
        "evaluations without a line": sorted(evaluated - set(dates)),
        "lines twice": [date for date, n in Counter(dates).items() if n > 1],
    }
    return {
        "minutes": minutes,
        "happened": dict(sorted(happening.counts.items())),
        "runs": dict(sorted(Counter(r["status"] for r in runs).items())),
        "fired by the clock": sum(bool(_timestamp(r)) for r in runs),
        "lines of history": len(dates),
        "users": happening.users,
        "lost": {what: found for what, found in lost.items() if found},
    }


def _environ(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def _timestamp(run: dict[str, Any]) -> str:
    """Of a run that the schedule started: its run key is the timestamp."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return str(tags.get("dagster/run_key", "")) if tags.get("dagster/schedule_name") == "reevaluation" else ""


def _all_embedded(root: Path, users: int) -> bool:
    shards = [pd.read_parquet(file, columns=["user_id"]) for file in root.glob("artifacts/users/*/embeddings.parquet")]
    return bool(shards) and pd.concat(shards).user_id.nunique() == users


def stale(ask: Callable[..., Any]) -> list[str]:
    return [
        "/".join(node["assetKey"]["path"])
        for node in ask(STALE)["assetNodes"]
        if node["staleStatus"] in ("STALE", "MISSING")
        and node["assetKey"]["path"][0] not in ("watched_users", "evaluations")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="Dagster's storage: Debian's Postgres, not SQLite")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, postgres() if arguments.postgres else nullcontext() as url:
        root = Path(folder)
        build(root, url)
        figures = soak(root, arguments.minutes, arguments.seed, console.print)
    figures["storage"] = "Postgres" if arguments.postgres else "SQLite"
    console.print(figures)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(bool(figures["lost"]))


if __name__ == "__main__":
    main()
