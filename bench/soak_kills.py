"""Kill -9 at random moments: `python bench/soak_kills.py --kills 3` (about five minutes of CPU for each).

A small project with this repository's graph: a simulated log, a tiny untrained prior, the shipped vision-language
model. Stage by stage it runs undisturbed; and in a copy of what was there before, the command with its process group is
killed after a random share of the stage's usual time, again and again until it has finished, or has been killed so
often that it may finish. What it leaves must be the same bytes, none of the killed processes may live on, and what was
finished is not made again. Reported is what this cost beyond undisturbed runs: mostly what every start pays, DVC, the
imports, loading models.

`--through dagster` materialises the stage's asset in place of `dvc repro`; afterwards `dvc status` has to be clean. The
last stage, `reevaluation`, is `ppd reevaluate` of one timestamp: it has to leave one line.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, field
from pathlib import Path

from killing import File, files_below, made_again, outlived, run
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from orchestration.dvc_graph import read_graph  # noqa: E402 (after the path)
from orchestration.dvc_lock import mend  # noqa: E402 (after the path)
from ppd.layout import Layout  # noqa: E402
from ppd.settings import (  # noqa: E402 (after the path)
    EvaluationSettings,
    FinetuneSettings,
    LaunchSettings,
    LogSettings,
    PeopleSettings,
    PreferenceSettings,
    SamplingSettings,
    Settings,
)
from ppd.simulation.log import simulate  # noqa: E402
from ppd.simulation.render import Atlas  # noqa: E402
from tests.test_stages import tiny_prior  # noqa: E402

SETTINGS = Settings(
    preferences=PreferenceSettings(
        eval_caption_share=0.25, validation_user_share=0.2, test_user_share=0.2, max_groups=2, n_shards=4
    ),
    log=LogSettings(n_users=16, rows_per_user=(24, 28)),
    finetune=FinetuneSettings(
        precision="fp32",
        steps=60,
        pairs_per_step=8,
        micro_batch_pairs=8,
        evaluate_every_steps=20,
        evaluation_pairs=16,
        checkpoint_every_steps=5,
    ),
    sampling=SamplingSettings(precision="fp32", steps=4, batch_size=4),
    launch=LaunchSettings(processes=2, training=2),
    evaluation=EvaluationSettings(n_unseen_users=3, n_seen_users=2, captions_per_user=2, n_seeds=4, n_interpolations=1),
)
STAGES = (
    *("ingest", "truth", "encode", "embed@s-00", "embed@s-01", "embed@s-02", "embed@s-03", "users"),
    *("finetune@ppd", "finetune@dpo", "finetune@sft", "adapter@ppd", "adapter@dpo", "adapter@sft"),
    *("sample-base", "sample@ppd", "sample@dpo", "sample@sft", "judge", "report"),
    "reevaluation",
)
TIMESTAMP = "2026-01-05T06:00"
REEVALUATED = Path("runs/reevaluations") / TIMESTAMP
KEPT = (REEVALUATED / "artifacts", REEVALUATED / "runs/unfinished")
"""Where a re-evaluation has what it has finished: stages, images and verdicts, parts of the stage under way."""
SHARED = ("stickers", "models/vlm", "models/attribute-classifier", "models/clip")


@dataclass
class Soaked:
    """One stage: what it takes alone (with DVC's start), and what came of killing it. Seconds are wall time."""

    stage: str
    through: str
    undisturbed_s: float
    """The shortest of the runs that were not killed."""
    kills: int = 0
    rounds: int = 0
    """How often it was let finish and compared with the undisturbed run."""
    spent_s: float = 0.0
    repeated_s: float = 0.0
    """Beyond as many undisturbed runs: the starts of killed processes, and work since the last checkpoint."""
    mended: int = 0
    """How often a kill tore DVC's own files, so that a shell had to run `python -m orchestration.dvc_lock`."""
    kept: int = 0
    """Of a re-evaluation: so many finished files a kill has left at most; what comes after must not make them again."""
    faults: list[str] = field(default_factory=list)
    """Files that differ or were made again, processes that lived on, what `dvc status` says."""


def make_project(folder: Path, settings: Settings = SETTINGS) -> None:
    """A repository of its own with this graph, its inputs and nothing that has run."""
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    for shared in SHARED:  # copied: a dependency that leads out of the repository is none of Dagster's graph
        shutil.copytree(ROOT / "data" / shared, data / shared)
    tiny_prior(data / "models" / "prior")
    simulate(settings.log, PeopleSettings(), Atlas.load(data / "stickers"), data / "choices", data / "truth")
    (folder / "evaluations").mkdir()
    shutil.copy(ROOT / "evaluations/human.jsonl", folder / "evaluations")
    for name in ("dvc.yaml", ".dvcignore", "workspace.yaml"):
        shutil.copy(ROOT / name, folder)
    for code in ("src", "orchestration"):
        shutil.copytree(ROOT / code, folder / code, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dagster").mkdir()
    shutil.copy(ROOT / "orchestration/dagster.yaml", folder / ".dagster")
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(settings.model_dump(mode="json"), file)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def forget(folder: Path, stage: str) -> None:
    """As if this stage had never run: its outputs, what DVC noted of it, and what DVC would take in place of a run."""
    lock = folder / "dvc.lock"
    if not lock.exists() or stage not in (noted := YAML().load(lock))["stages"]:
        return
    for out in noted["stages"].pop(stage)["outs"]:
        left = folder / out["path"]
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    YAML().dump(noted, lock)
    shutil.rmtree(folder / ".dvc/cache", ignore_errors=True)


def command_of(project: Path, stage: str, through: str) -> list[str]:
    """What a user types for this stage."""
    if stage == "reevaluation":
        return ["ppd", "reevaluate", "--date", TIMESTAMP]
    if through == "dvc":
        return ["dvc", "repro", "--single-item", "--no-commit", stage]
    with chdir(project):  # DVC names stages as seen from here
        graph = read_graph(project)
    [(key, partition)] = {
        (key, item.partition)
        for node in graph.stages
        for item in node.items
        if item.address == stage
        for key in list(node.outputs)[:1]
    }
    selected = ["--select", f'key:"{"/".join(key)}"', *(["--partition", partition] if partition else [])]
    return ["dagster", "asset", "materialize", "-m", "orchestration.definitions", "-d", ".", *selected]


def outputs(folder: Path) -> dict[str, str]:
    """Every file that stages leave, by the hash of its content."""
    left = [file for top in ("artifacts", "models", "reports") for file in (folder / top).rglob("*")]
    # A re-evaluation's page says how many seconds its stages took.
    reported = [file for file in (folder / REEVALUATED / "reports").rglob("*") if file.name != "index.html"]
    left += [folder / "evaluations/history.jsonl", *reported]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(left)
        if file.is_file()
    }


def faults_of(folder: Path, stage: str, through: str, whole: Mapping[str, str]) -> list[str]:
    """What is not as it has to be after a stage has finished."""
    found = outputs(folder)
    faults = [f"{name} differs" for name in sorted(found.keys() | whole) if found.get(name) != whole.get(name)]
    if stage == "reevaluation":
        lines = (folder / "evaluations/history.jsonl").read_text().splitlines()
        ended = Counter(each["stage"] for each in map(json.loads, journal(folder).read_text().splitlines()))
        faults += [f"{len(lines)} lines"] * (len(lines) != 1)
        faults += [f"{name} ended {times} times" for name, times in ended.items() if times != 1]
    elif through == "dagster":
        asked = subprocess.run(["dvc", "status", "--json", stage], cwd=folder, check=True, capture_output=True)
        faults += [f"dvc status: {behind}" for behind in [json.loads(asked.stdout)] if behind]
    return faults


def journal(folder: Path) -> Path:
    """The stages that ended in a re-evaluation."""
    return Layout(folder / REEVALUATED).stage_times


def kept(folder: Path) -> dict[str, File]:
    """The finished files of a re-evaluation that is under way."""
    return {str(top / name): file for top in KEPT for name, file in files_below(folder / top).items()}


def copy(project: Path, to: Path) -> Path:
    """The project as it is now."""
    if to.exists():
        shutil.rmtree(to)
    return Path(shutil.copytree(project, to, symlinks=True))


def soak(project: Path, stage: str, kills: int, chance: random.Random, work: Path, through: str = "dvc") -> Soaked:
    """Run a stage undisturbed in `project`, and killed in copies of what was there before."""
    forget(project, stage)
    before, log, command = copy(project, work / "before"), work / f"{stage}.log", command_of(project, stage, through)
    took = run(command, project, log, **environment(project)).seconds
    whole = outputs(project)
    result = Soaked(stage, through, 0.0, faults=faults_of(project, stage, through, whole))
    while result.kills < kills and not result.faults:
        disturbed, ran, here = copy(before, work / "disturbed"), None, 0
        while ran is None or not ran.finished:
            there, killed = kept(disturbed), ran.started if ran else ()
            more = result.kills + here < kills
            if ran and through == "dagster":  # as docs/orchestration.md says: no daemon runs here
                run([sys.executable, "-m", "orchestration.dead_runs"], disturbed, log, **environment(disturbed))
            ran = run(
                command, disturbed, log, chance.uniform(0.15, 0.9) * took if more else None, **environment(disturbed)
            )
            here += not ran.finished
            if through == "dvc":  # the assets do it themselves
                result.mended += len(mend(disturbed))
            result.spent_s += ran.seconds
            result.kept = max(result.kept, len(there))
            result.faults += [f"{name} made again" for name in made_again(there, kept(disturbed))]
            result.faults += [f"{n} killed processes live on" for n in [outlived(killed)] if n]
        if not here:
            took = min(took, ran.seconds)  # the machine's other work has slowed the first run down
        result.rounds += 1
        result.kills += here
        result.faults += faults_of(disturbed, stage, through, whole)
    result.undisturbed_s, result.spent_s = round(took, 1), round(result.spent_s, 1)
    result.repeated_s = round(result.spent_s - result.rounds * took, 1)
    return result


def environment(folder: Path) -> dict[str, str]:
    """Where Dagster keeps its runs."""
    return {"DAGSTER_HOME": str(folder / ".dagster")}


def merged(file: Path, fresh: Sequence[Soaked]) -> list[dict[str, object]]:
    """The file's figures with those of the stages that ran now in place of older ones."""
    there = json.loads(file.read_text()) if file.exists() else []
    ran = {(each.stage, each.through) for each in fresh}
    return [*(old for old in there if (old["stage"], old["through"]) not in ran), *map(asdict, fresh)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES)
    parser.add_argument("--through", choices=("dvc", "dagster"), default="dvc")
    parser.add_argument("--project", type=Path, help="kept there, so that stages before need not run the next time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/soak_kills.json")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    results: list[Soaked] = []
    with tempfile.TemporaryDirectory() as scratch:
        project = given.project or Path(scratch) / "project"
        if not project.exists():
            make_project(project)
        for stage in STAGES[: 1 + max(map(STAGES.index, given.stages))]:
            if stage not in given.stages:
                run(command_of(project, stage, "dvc"), project, Path(scratch) / "others.log")
                continue
            results.append(soak(project, stage, given.kills, chance, Path(scratch), given.through))
            print(json.dumps(asdict(results[-1])), flush=True)
            given.out.write_text(json.dumps(merged(given.out, results), indent=1) + "\n")
    faults = [fault for each in results for fault in each.faults]
    print(f"{sum(each.kills for each in results)} kills in {len(results)} stages; faults: {faults or 'none'}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
