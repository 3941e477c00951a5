"""Evaluating the current models again, on fresh noises and captions: the same stages, in their own folder.

DVC re-runs nothing whose inputs are unchanged, which is right for results and useless for a clock. So a re-evaluation
is no stage: it runs the stages from sampling to the report beside the pipeline and adds a line to a history that git
keeps. Its timestamp, to the minute, decides the noises, which no other one uses, and which of the evaluation captions
each user gets. The same timestamp and models give the same numbers.

It reads what was there when it began: models and users are linked into its folder, so that a training that ends
meanwhile changes nothing of it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.launch import PARENT
from ppd.layout import Layout
from ppd.pinned import listing, pin, wait_until_made
from ppd.settings import EvaluationSettings, Settings
from ppd.stage_times import latest

STAGES: Mapping[str, tuple[str, ...]] = {
    **{f"sample@{method}": ("sample", "--method", method) for method in ("base", "ppd", "dpo", "sft")},
    "judge": ("judge",),
    "report": ("report",),
}
"""By the name under which each writes down that it has ended (`ppd.stage_times`), its arguments."""
MADE: tuple[str, ...] = (
    "models",
    "artifacts/preferences",
    "artifacts/truth",
    "artifacts/users",
    "artifacts/users.parquet",
    "artifacts/whitening.safetensors",
)
"""What these stages read of the pipeline: kept as it is when the re-evaluation begins."""
GIVEN = "data"
READ = (GIVEN, *MADE)
ADAPTERS = ("ppd", "dpo", "sft")
BEGUN = "begun.json"

RunStage = Callable[[Sequence[str], Path], None]
"""Runs `ppd stage` with these arguments in this folder, which notes its end there; raises when it fails."""


def name_of(timestamp: datetime) -> str:
    """How a timestamp is written: `2026-01-05T06:00`, UTC."""
    return timestamp.strftime("%Y-%m-%dT%H:%M")


def evaluation_of(timestamp: datetime, settings: Settings) -> EvaluationSettings:
    """What is sampled at that time. Two timestamps share no noise, and none is shared with `params.yaml`'s own."""
    usual = settings.evaluation
    minutes = int(timestamp.replace(tzinfo=UTC).timestamp() // 60)
    return usual.model_copy(
        update={
            "first_seed": usual.first_seed + minutes * usual.n_seeds,
            "resample_key": name_of(timestamp),
            "captions_per_user": settings.reevaluation.captions_per_user,
        }
    )


def reevaluate(
    root: Path,
    settings: Settings,
    timestamp: datetime,
    run_stage: RunStage | None = None,
    log: Callable[[str], None] = print,
) -> Mapping[str, Any]:
    """Evaluate the models at `root` as of `timestamp` and return the line that was added to evaluations/history.jsonl.

    While models or users are being made it waits, and says so to `log`. A timestamp that is there already is evaluated
    again, and its line replaced: the models may have changed. A run that was killed goes on where it was, if models,
    users and settings are still the same. Raises InputError when there are no models yet, when they do not belong to
    the users, and when another process evaluates this timestamp.
    """
    evaluation = evaluation_of(timestamp, settings)
    folder = Layout(root).reevaluations / name_of(timestamp)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            line = _evaluate(root, folder, settings.model_copy(update={"evaluation": evaluation}), run_stage, log)
    except Timeout as error:
        raise InputError(f"another process evaluates {folder.name} already", fix="Wait for it, or end it") from error
    _remember(root, line)
    (folder / BEGUN).unlink()  # first: without it nobody goes on here
    for pinned in ("artifacts", "models"):
        shutil.rmtree(folder / pinned)
    return line


def history(root: Path) -> list[dict[str, Any]]:
    """All re-evaluations, by date."""
    path = Layout(root).history
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda line: str(line["date"]))


def _evaluate(
    root: Path, folder: Path, settings: Settings, run_stage: RunStage | None, log: Callable[[str], None]
) -> dict[str, Any]:
    wait_until_made(root, MADE, log)  # before looking: a stage that runs has taken away what it makes anew
    missing = [path for path in READ if not (root / path).exists()]
    if missing:
        raise InputError(f"there is nothing to evaluate yet: no {', '.join(missing)}", fix="Run `dvc repro` first.")
    _lay_out(root, folder, settings, log)
    made_with = _made_with(folder, settings)
    # A stage notes its end itself, so a kill after that and before its process is gone repeats nothing.
    ended = {run.stage for run in latest(Layout(folder).stage_times)}
    for name, arguments in STAGES.items():
        if name in ended:
            log(f"{' '.join(arguments)}: done before this run was interrupted")
        else:
            (run_stage or _run_stage)(arguments, folder)
    if _made_with(folder, settings) != made_with:
        raise InputError("models or users were changed in place while they were evaluated", file=folder)
    evaluation = settings.evaluation
    return {
        "date": folder.name,
        "first_seed": evaluation.first_seed,
        "captions_per_user": evaluation.captions_per_user,
        "model": json.loads((folder / "models" / "ppd" / "config.json").read_text()),
        "made_with": made_with,
        "win_rates": json.loads((folder / "reports" / "win_rates.json").read_text()),
    }


def _lay_out(root: Path, folder: Path, settings: Settings, log: Callable[[str], None]) -> None:
    """A folder in which the stages find what they read, and settings that differ in what the timestamp decides."""
    written = settings.model_dump(mode="json")
    begun = {"settings": written, "files": listing(root, MADE)}
    note = folder / BEGUN
    if note.exists() and json.loads(note.read_text()) == json.loads(json.dumps(begun)):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun["files"] = pin(root, MADE, folder, log)
    (folder / GIVEN).symlink_to((root / GIVEN).resolve())
    with atomic_path(folder / "params.yaml") as params, params.open("w", encoding="utf-8") as file:
        YAML().dump(written, file)
    _check_that_they_belong_together(folder)
    with atomic_path(note) as fresh:
        fresh.write_text(json.dumps(begun))


def _check_that_they_belong_together(folder: Path) -> None:
    """An adapter reads users whitened as in its training: those of a new embedding would mean something else to it."""
    from ppd.users.whitening import Whitening

    now = Whitening.load(Layout(folder).whitening).name
    for name in ADAPTERS:
        then = json.loads((folder / "models" / name / "config.json").read_text()).get("whitening", "")
        if then and then != now:
            raise InputError(
                f"models/{name} was trained on other embeddings of the users (whitening {then}) than there are ({now})",
                fix="Run `dvc repro`: the models have to be trained anew",
            )


def _made_with(folder: Path, settings: Settings) -> dict[str, str]:
    """What an evaluation rests on, so that the trend can show what changed between two of them."""
    layout = Layout(folder)
    captions = settings.evaluation.model_dump(mode="json", exclude={"first_seed", "resample_key"})
    judge = [settings.judge.model_dump(mode="json"), settings.models.vlm]
    weights = listing(folder, [settings.models.vlm], times=False)  # of a local model; a hub id is its name alone
    return {
        "adapter": _digest(*(file for name in ADAPTERS for file in _adapter_files(layout.models / name))),
        "users": _digest(layout.manifest, layout.whitening),
        "captions": _digest(layout.preferences / "captions.parquet", json.dumps(captions, sort_keys=True)),
        "judge": _digest(json.dumps([judge, weights], sort_keys=True)),
    }


def _adapter_files(folder: Path) -> list[Path]:
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def _digest(*parts: Path | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()[:16]


def _run_stage(arguments: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-c", "from ppd.cli import main; main()", "stage", *arguments]
    subprocess.run(command, cwd=folder, check=True, env=os.environ | {PARENT: str(os.getpid())})


def _remember(root: Path, line: Mapping[str, Any]) -> None:
    """Add the line, or replace that of the same date; of two that end together neither is lost."""
    path = Layout(root).history
    with FileLock(Layout(root).reevaluations / ".history.lock", timeout=600):
        others = [other for other in history(root) if other["date"] != line["date"]]
        lines = sorted([*others, line], key=lambda each: str(each["date"]))
        with atomic_path(path) as fresh:
            fresh.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
