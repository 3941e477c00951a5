"""What the two doors cost, at 100 and at 5,000 users: `python bench/orchestration.py` (about ten minutes of CPU).

A project with this repository's graph in 32 shards: a real log, really ingested (of two small JPEGs again and again);
embeddings are random numbers, and the other stages that need a model write a small file of them. Ingestion, the
manifest, DVC and Dagster (webserver, daemon, sensors) are the real ones. Wall times tell of the machine's other work
too, so CPU time stands beside them.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from served import dagster_dev, graphql, until
from small_log import ROWS_PER_USER, rows_of

from ppd.preferences.schema import PICK_A_PIC

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench/results/orchestration.json"
N_SHARDS, PORT = 32, 3222
REAL = ("ingest", "users")
STAND_IN = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from PIL import Image
outs = sys.argv[1:]
if outs[0].startswith("artifacts/users/"):
    pairs = pd.read_parquet(f"artifacts/preferences/support/{Path(outs[0]).name}.parquet")
    parts = pairs.groupby(["user_id", "support_group"]).chosen_digest.agg(lambda d: b"".join(d).hex() * 2).reset_index()
    seeds = [abs(hash((user, key))) % 2**32 for user, key in zip(parts.user_id, parts.chosen_digest)]
    hidden = [np.random.default_rng(seed).normal(size=256).astype("float32") for seed in seeds]
    changed = pairs.groupby(["user_id", "support_group"]).caption.agg("".join).to_numpy()
    Path(outs[0]).mkdir(parents=True, exist_ok=True)
    table = parts.assign(key=parts.chosen_digest + changed, profile="likes ink", shape=[[1, 256]] * len(parts))
    table.drop(columns="chosen_digest").assign(hidden=hidden).to_parquet(outs[0] + "/embeddings.parquet")
else:
    for out in outs:
        path = Path(out)
        folder = path if not path.suffix else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8)).save(path)
        else:
            (path if path.suffix else path / "numbers.json").write_text("[]" if path.stem == "win_rates" else "{}")
"""


def build(root: Path, n_users: int) -> None:
    """The project, before anything has run."""
    for folder in ("orchestration", "src"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("workspace.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, root / file)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["preferences"] |= {"n_shards": N_SHARDS}
    pipeline = yaml.load(ROOT / "dvc.yaml")
    for name, stage in pipeline["stages"].items():
        if name == "embed":
            stage["matrix"]["shard"] = [f"s-{at:02}" for at in range(N_SHARDS)]
        if name not in REAL:
            outs = [*stage.get("outs", []), *stage.get("metrics", [])]
            paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
            stage["cmd"] = " ".join([sys.executable, "stand_in.py", *paths])
        made = ("artifacts", "models/", "src/", "data/choices")
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith(made) or dep == "models"]
    for name, content in (("params.yaml", params), ("dvc.yaml", pipeline)):
        with (root / name).open("w") as file:
            yaml.dump(content, file)
    (root / "stand_in.py").write_text(STAND_IN)
    (root / "data/choices").mkdir(parents=True)
    pq.write_table(rows_of(range(n_users)), root / "data/choices/a.parquet")
    home = root / ".dagster"
    home.mkdir()
    shutil.copy(ROOT / "orchestration/dagster.yaml", home)
    for command in (["git", "init", "-q"], [*DVC, "init", "-q"], [*DVC, "add", "-q", "data"]):
        run(root, command)


DVC = [sys.executable, "-m", "dvc"]


def environment(root: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DAGSTER_HOME": str(root / ".dagster"), "PYTHONHASHSEED": "0"}


def run(root: Path, command: list[str]) -> str:
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout


def timed(act: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of what `act` starts."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    act()
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def median(rounds: int, act: Callable[[], object]) -> dict[str, float]:
    each = [timed(act) for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in each) for name in ("wall_s", "cpu_s")}


def change_one_user(root: Path, user: int) -> None:
    """Other captions for one user: what describes them is different now."""
    file = root / "data/choices/a.parquet"
    table = pq.read_table(file)
    captions = table["caption"].to_pylist()
    for at in range(user * ROWS_PER_USER, (user + 1) * ROWS_PER_USER):
        captions[at] = captions[at].replace("sticker", "drawing")
    pq.write_table(table.set_column(2, PICK_A_PIC.field("caption"), pa.array(captions)), file)
    run(root, [*DVC, "add", "-q", "data"])


def behind(root: Path) -> list[str]:
    return sorted(json.loads(run(root, [*DVC, "status", "--json"])))


VERSION = '{assetNodes(assetKeys: [{path: ["%s"]}]) {assetMaterializations(limit: 1) {timestamp}}}'
SHARDS_PAGE = """{assetNodeOrError(assetKey: {path: ["artifacts", "users"]}) {... on AssetNode {
  partitionKeys partitionStats {numMaterialized} latestMaterializationByPartition {partition timestamp metadataEntries {
  label}}}}}"""
GRAPH_PAGE = "{assetNodes {assetKey {path} staleStatus groupName assetMaterializations(limit: 1) {timestamp}}}"


def last_reported(ask: Callable[[str], Any], path: str) -> float:
    [node] = ask(VERSION % '", "'.join(path.split("/")))["assetNodes"]
    return max([float(event["timestamp"]) / 1000 for event in node["assetMaterializations"]], default=0.0)


def measure(n_users: int, rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root, n_users)
        result: dict[str, Any] = {"users": n_users, "shards": N_SHARDS, "rounds": rounds}
        result["first repro"] = timed(lambda: run(root, [*DVC, "repro"]))
        log(f"{n_users} users: first repro {result['first repro']}")
        result["no-op repro"] = median(rounds, lambda: run(root, [*DVC, "repro"]))
        load = [sys.executable, "-c", "import orchestration.definitions"]
        result["code location load"] = median(rounds, lambda: run(root, load))
        single = [*DVC, "repro", "--single-item", "users"]
        select = ["--select", 'key:"artifacts/users.parquet"', "-m", "orchestration.definitions"]
        materialise = [sys.executable, "-m", "dagster", "asset", "materialize", *select]
        run(root, materialise)
        result["no-op stage, dvc alone"] = median(rounds, lambda: run(root, single))
        result["no-op stage, materialised"] = median(rounds, lambda: run(root, materialise))
        log(f"{n_users} users: {result}")
        delays, shards, then = [], [], []
        with dagster_dev(root, PORT, environment(root)) as base:
            ask = partial(graphql, base)
            until(lambda: last_reported(ask, "reports/metrics.json") > 0, 600, "nothing is reported")
            for page, query in (("asset graph", GRAPH_PAGE), ("page of the shards", SHARDS_PAGE)):
                started = time.monotonic()
                ask(query)
                result[f"GraphQL of the {page}"] = {"wall_s": round(time.monotonic() - started, 2)}
            for user in range(rounds):
                change_one_user(root, user)
                run(root, [*DVC, "repro", "ingest"])
                embed = [name for name in behind(root) if name.startswith("embed@")]
                shards.append(len(embed))
                run(root, [*DVC, "repro", "--single-item", *embed])
                then.append([name for name in behind(root) if name.startswith(("users", "finetune"))])
                run(root, [*DVC, "repro"])
                ended = time.time()
                until(lambda: all_fresh(ask), 600, "the UI does not follow the shell")
                delays.append(round(time.time() - ended, 1))
                log(f"{n_users} users: one changed, {embed}, then {then[-1]}; reported after {delays[-1]} s")
        result["shell to UI"] = {"wall_s": statistics.median(delays), "each_s": delays}
        result["shards stale after one user changed"] = shards
        result["stale after that shard ran"] = then
    return result


def all_fresh(ask: Callable[[str], Any]) -> bool:
    """Whether Dagster calls nothing of the pipeline stale any more, as DVC does after `dvc repro`."""
    stale = [n["assetKey"]["path"] for n in ask("{assetNodes {assetKey {path} staleStatus}}")["assetNodes"]
             if n["staleStatus"] in ("STALE", "MISSING")]  # fmt: skip
    return all(path[0] in ("watched_users", "evaluations") for path in stale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[100, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    console = Console()
    results = [measure(n, arguments.rounds, console.print) for n in arguments.users]
    table = Table("median of the rounds", *(f"{result['users']:,} users" for result in results))
    for name, value in results[0].items():
        if isinstance(value, dict):
            table.add_row(name, *(" ".join(f"{k} {v}" for k, v in result[name].items()) for result in results))
        elif isinstance(value, list):
            table.add_row(name, *(str(result[name]) for result in results))
    console.print(table)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
