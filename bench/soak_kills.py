"""Kill -9 at random moments: `python bench/soak_kills.py --kills 3` (about five minutes of CPU for each).

A small project with this repository's graph: a simulated log, a tiny untrained prior, the shipped vision-language
model. Stage by stage it runs undisturbed; and in a copy of what was there before, `dvc repro` with all that it started
is killed after a random share of the stage's usual time, again and again until it has finished, or has been killed so
often that it may finish. What it leaves must be the same bytes. Reported is what this cost beyond undisturbed runs:
mostly what every start pays, DVC, the imports, loading models.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

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
)
LINKED = ("stickers", "models/vlm", "models/attribute-classifier", "models/clip")


@dataclass
class Soaked:
    """One stage: what it takes alone (with DVC's start), and what came of killing it. Seconds are wall time."""

    stage: str
    undisturbed_s: float
    """The shortest of the runs that were not killed."""
    kills: int = 0
    rounds: int = 0
    """How often it was let finish and compared with the undisturbed run."""
    spent_s: float = 0.0
    repeated_s: float = 0.0
    """Beyond as many undisturbed runs: the starts of killed processes, and work since the last checkpoint."""
    bytes_equal: bool = True
    differing: list[str] = field(default_factory=list)


def make_project(folder: Path, settings: Settings = SETTINGS) -> None:
    """A repository of its own with this graph, its inputs and nothing that has run."""
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    for shared in LINKED:
        (data / shared).symlink_to(ROOT / "data" / shared)
    tiny_prior(data / "models" / "prior")
    simulate(settings.log, PeopleSettings(), Atlas.load(data / "stickers"), data / "choices", data / "truth")
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(settings.model_dump(mode="json"), file)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def repro(folder: Path, stage: str, log: Path, kill_after_s: float | None = None) -> tuple[float, bool]:
    """`dvc repro` of one stage; with a time, killed with all that it started. Seconds, and whether it had finished."""
    started = time.monotonic()
    with log.open("a") as out:
        command = ["dvc", "repro", "--single-item", "--no-commit", stage]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, start_new_session=True)
        try:
            code = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return time.monotonic() - started, False
    if code:
        raise SystemExit(f"{stage} failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started, True


def outputs(folder: Path) -> dict[str, str]:
    """Every file that stages leave, by the hash of its content."""
    found = {}
    for top in ("artifacts", "models", "reports"):
        for file in sorted((folder / top).rglob("*")):
            if file.is_file():
                found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def copy(project: Path, to: Path) -> Path:
    """The project as it is now; what is linked stays linked."""
    if to.exists():
        shutil.rmtree(to)
    return Path(shutil.copytree(project, to, symlinks=True))


def soak(project: Path, stage: str, kills: int, chance: random.Random, work: Path) -> Soaked:
    """Run a stage undisturbed in `project`, and killed in copies of what was there before."""
    before, log = copy(project, work / "before"), work / f"{stage}.log"
    took, _ = repro(project, stage, log)
    whole = outputs(project)
    result = Soaked(stage, 0.0)
    while result.kills < kills and result.bytes_equal:
        disturbed, finished, here = copy(before, work / "disturbed"), False, 0
        while not finished:
            more = result.kills + here < kills
            seconds, finished = repro(disturbed, stage, log, chance.uniform(0.15, 0.9) * took if more else None)
            here += not finished
            result.spent_s += seconds
        if not here:
            took = min(took, seconds)  # the machine's other work has slowed the first run down
        result.rounds += 1
        result.kills += here
        found = outputs(disturbed)
        result.bytes_equal = found == whole
        result.differing = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
    result.undisturbed_s = round(took, 1)
    result.repeated_s = round(result.spent_s - result.rounds * took, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/soak_kills.json")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        make_project(project)
        for stage in STAGES:
            if stage not in given.stages:
                repro(project, stage, Path(scratch) / "others.log")
                continue
            result = soak(project, stage, given.kills, chance, Path(scratch))
            results.append(result)
            print(json.dumps(asdict(result)), flush=True)
            given.out.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n")
    kills, equal = sum(each.kills for each in results), all(each.bytes_equal for each in results)
    print(f"{kills} kills in {len(results)} stages; bytes equal: {equal}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
