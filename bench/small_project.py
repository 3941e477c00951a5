"""A small project with the real graph, for benchmarks of what is around the models, and a Postgres for its Dagster.

Four shards. Ingestion, the manifest, DVC, Dagster and `ppd reevaluate` are the real ones; the stages that need a model
are stand-ins that take `SOAK_WORK_S` seconds (2; `SOAK_ENCODE_S`: `encode`), in a worker with a session of its own, as
under torchrun, and write random numbers, `SOAK_WIDTH` (32) for each embedding.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from ruamel.yaml import YAML
from small_log import rows_of

ROOT = Path(__file__).parents[1]
DVC = [sys.executable, "-m", "dvc"]
FIRST_USERS, N_SHARDS = 24, 4
STAND_INS = '''
"""Stands for the stages that need a model: the same files, of random numbers, by a worker in its own session."""
import json, os, shutil, subprocess, sys, time
import numpy as np, pandas as pd
from ppd.files import atomic_path
from ppd.real_stages import ingest, truth, users
from ppd.users.embeddings import VlmRef, write_rows

def _work(stage="work"):
    seconds = os.environ.get(f"SOAK_{stage.upper()}_S", os.environ.get("SOAK_WORK_S", "2"))
    code = f"import time; time.sleep({seconds})"
    assert subprocess.run([sys.executable, "-c", code], start_new_session=True).returncode == 0

def _files(**texts):
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

def encode(settings, layout):
    _work("encode")
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
        run(root, [*DVC, "repro"])


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
