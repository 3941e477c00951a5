"""The pipeline and every experiment without DVC: as a queue of processes that share one device, and resumable.

    python experiments/run_all.py --processes 8                         # everything, on the accelerator that is there
    python experiments/run_all.py --device cpu --processes 2 --only users,best-of-n,decomposition,sampling
    python experiments/run_all.py --list                                # what there is, and what each waits for

For a machine that is lent for minutes, with many cores and one GPU, on which networks this small are bound by the
launch of kernels: a dozen trainings beside each other take little longer than one. It needs what `src/` imports
(torch, diffusers, transformers, accelerate, pandas, pyarrow, pydantic, rich, scipy, ruamel.yaml, matplotlib, jinja2),
and neither DVC nor Dagster. Results lie where `dvc repro` leaves them (`dvc commit` takes them over); what was done is
noted in runs/queue, and a killed run goes on there. A file of `data.dvc` that is missing comes from `.dvc/store`.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DONE = ROOT / "runs/queue"
NEEDED = "torch diffusers transformers accelerate pandas pyarrow pydantic rich scipy ruamel.yaml matplotlib jinja2"
RESULTS = ("experiments/results", "reports", "models", "artifacts/experiments/seeds", "runs/queue")
"""What --out takes along: small, and all that later work needs."""
HEADLINE = ("adapter-ppd", "seeds")


@dataclass(frozen=True)
class Job:
    """A call of the library in a process of its own, and the jobs that it waits for."""

    call: str
    after: tuple[str, ...] = ()


def stage(name: str, *more: str, after: tuple[str, ...] = ()) -> Job:
    arguments = "".join(f", {word!r}" for word in more)
    return Job(f"stages.{name}(settings, layout{arguments})", after)


def experiment(function: str, *more: str, after: tuple[str, ...] = ()) -> Job:
    arguments = "".join(f", {word!r}" for word in more)
    return Job(f"resolve_name('ppd.experiments.{function}')(settings, experiments, layout{arguments})", after)


def jobs(shards: tuple[str, ...], variants: Iterable[str]) -> dict[str, Job]:
    """Every job by name, the more important first. variants: of the ablation."""
    embedded = tuple(f"embed-{shard}" for shard in shards)
    todo = {
        "ingest": stage("ingest"),
        "truth": stage("truth", after=("ingest",)),
        **{name: stage("embed", shard, after=("ingest",)) for name, shard in zip(embedded, shards, strict=True)},
        "users-table": stage("users", after=embedded),
        "encode": stage("encode", after=("ingest",)),
    }
    ready = ("encode", "users-table")
    for method in ("ppd", "dpo", "sft"):
        todo[f"finetune-{method}"] = stage("finetune", method, after=ready)
        todo[f"adapter-{method}"] = stage("adapter", method, after=(f"finetune-{method}",))
    todo["seeds"] = experiment("seeds:train_seeds", after=ready)
    todo["sample-base"] = stage("sample", "base", after=("ingest",))
    for method in ("ppd", "dpo", "sft"):
        todo[f"sample-{method}"] = stage("sample", method, after=(f"adapter-{method}",))
    sampled = tuple(f"sample-{model}" for model in ("base", "ppd", "dpo", "sft"))
    todo["judge"] = stage("judge", after=("truth", *sampled))
    todo["shared-inputs"] = experiment("shared_inputs:prepare_shared_inputs", after=("ingest",))
    picked = ("shared-inputs", "truth", *HEADLINE)
    todo |= {
        "users": experiment("users:write_users", after=("judge", "seeds")),
        "best-of-n": experiment("best_of_n:write_best_of_n", after=("shared-inputs", "truth", "adapter-ppd")),
        "decomposition": experiment("decomposition:write_decomposition", after=(*picked, "sample-base")),
        "sampling": experiment("sampling:write_sampling", after=picked),
        "fresh-people": experiment("fresh_people:write_fresh_people", after=(*picked, "encode")),
        "report": stage("report", after=("judge",)),
    }
    for variant in variants:
        waits = ("shared-inputs", "truth", "encode")
        todo[f"ablation-{variant}"] = experiment("ablation:write_ablation", variant, after=waits)
    todo |= {
        "implicit": experiment("prediction:write_prediction", after=("truth", "adapter-dpo", *HEADLINE)),
        "identification": experiment("identification:write_identification", after=("shared-inputs", "truth")),
        "rewards": experiment("rewards:write_rewards", after=("shared-inputs", "encode")),
        "interpolation": experiment("interpolation:write_interpolation", after=("sample-base", "truth", "adapter-ppd")),
    }
    return todo


def with_what_it_waits_for(names: list[str], todo: Mapping[str, Job]) -> list[str]:
    """These jobs and all that they need, in the order of `todo`."""
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in todo:
            raise SystemExit(f"no job {name!r}; there are {', '.join(todo)}")
        if name not in wanted:
            wanted.add(name)
            waiting += todo[name].after
    return [name for name in todo if name in wanted]


def run(names: list[str], todo: Mapping[str, Job], n_processes: int, program: str, env: Mapping[str, str]) -> list[str]:
    """Run the jobs, each when what it waits for is done, at most so many at a time. Returns those that failed.

    A job that waits for a failed one is not run. program: what each process runs before its own call.
    """
    DONE.mkdir(parents=True, exist_ok=True)
    left = [name for name in names if not (DONE / f"{name}.json").exists()]
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    failed: list[str] = []
    try:
        while left or running:
            for name in list(left):
                needs = todo[name].after
                if any(need in failed for need in needs):
                    left.remove(name)
                    failed.append(name)
                    print(f"{name}: not run, since {next(n for n in needs if n in failed)} failed", flush=True)
                elif len(running) < n_processes and all((DONE / f"{need}.json").exists() for need in needs):
                    left.remove(name)
                    with (DONE / f"{name}.log").open("w") as log:
                        command = [sys.executable, "-c", f"{program}\n{todo[name].call}\n"]
                        process = subprocess.Popen(command, cwd=ROOT, env=dict(env), stdout=log, stderr=log)
                    running[name] = (process, time.time())
            for name, (process, began) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                del running[name]
                seconds = round(time.time() - began, 1)
                if code:
                    failed.append(name)
                    print(f"{name}: FAILED after {seconds} s, see {DONE / name}.log", flush=True)
                else:
                    (DONE / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
                    print(f"{name}: {seconds} s", flush=True)
            time.sleep(0.1)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()
    return failed


def restore(root: Path) -> None:
    """Bring the files of data.dvc that are missing from .dvc/store; what is there stays as it is."""
    tracked = (root / "data.dvc").read_text()
    folder = tracked.split("md5: ", 1)[1].split()[0]
    store = root / ".dvc/store/files/md5"
    for file in json.loads((store / folder[:2] / folder[2:]).read_text()):
        target, content = root / "data" / file["relpath"], store / file["md5"][:2] / file["md5"][2:]
        if not target.exists() and content.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, target)
            if hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest() != file["md5"]:
                raise SystemExit(f"{content}: damaged; it is not what data.dvc names")


def take_along(out: Path) -> None:
    """Copy the results to a folder."""
    for name in RESULTS:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, out / name, dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: the accelerator that is there")
    parser.add_argument("--processes", type=int, default=2, help="jobs at a time")
    parser.add_argument("--workers", type=int, default=3, help="processes inside an experiment (n_workers)")
    parser.add_argument("--only", default="", help="jobs, separated by commas, with what they wait for; default: all")
    parser.add_argument("--out", type=Path, help="a folder that gets the results")
    parser.add_argument("--list", action="store_true", help="show the jobs and end")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # a lent machine ends runs so: the jobs must not stay, nor results
        signal.signal(number, lambda *_: sys.exit("stopped; the same command goes on from here"))
    if missing := [name for name in NEEDED.split() if importlib.util.find_spec(name.split(".")[0]) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    sys.path.insert(0, str(ROOT / "src"))
    restore(ROOT)
    from ppd.experiments.settings import ExperimentSettings
    from ppd.launch import ON_CPUS
    from ppd.params import load_model
    from ppd.preferences.splits import shard_names
    from ppd.settings import load_settings

    os.chdir(ROOT)
    varied, settings = load_model(ROOT / "experiments/params.yaml", ExperimentSettings), load_settings()
    todo = jobs(tuple(shard_names(settings.preferences.n_shards)), varied.variants)
    if options.list:
        for name, job in todo.items():
            print(f"{name:28} after {', '.join(job.after) or 'nothing'}")
        return
    names = with_what_it_waits_for([n for n in options.only.split(",") if n] or list(todo), todo)
    program = (
        "import torch\n"
        "from pkgutil import resolve_name\n"
        "from ppd import stages\n"
        "from ppd.experiments.settings import ExperimentSettings\n"
        "from ppd.layout import Layout\n"
        "from ppd.params import load_model\n"
        "from ppd.settings import load_settings\n"
        "torch.set_num_threads(1)\n"
        "settings, layout = load_settings(), Layout()\n"
        "experiments = load_model('experiments/params.yaml', ExperimentSettings)\n"
        f"experiments = experiments.model_copy(update={{'n_workers': {options.workers}}})\n"
    )
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | ON_CPUS | {"PYTHONPATH": os.pathsep.join(paths)}
    if options.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    try:
        failed = run(names, todo, options.processes, program, env)
    finally:
        if options.out is not None:
            take_along(options.out)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
