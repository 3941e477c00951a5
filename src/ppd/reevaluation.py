"""Evaluating the current models again, on fresh noises and captions: the same stages, in their own folder.

DVC re-runs nothing whose inputs are unchanged, which is right for results and useless for a clock. So a re-evaluation
is no stage: it runs the stages from sampling to the report beside the pipeline and adds a line to a history that git
keeps. Its timestamp, to the minute, decides the noises, which no other one uses, and which of the evaluation captions
each user gets. The same timestamp and models give the same numbers.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.settings import EvaluationSettings, Settings

STAGES: tuple[tuple[str, ...], ...] = (
    *(("sample", "--method", method) for method in ("base", "ppd", "dpo", "sft")),
    ("judge",),
    ("report",),
)
READ: tuple[str, ...] = (
    "data",
    "models",
    "artifacts/preferences",
    "artifacts/truth",
    "artifacts/users",
    "artifacts/users.parquet",
    "artifacts/whitening.safetensors",
)
"""What these stages read from the pipeline."""

RunStage = Callable[[Sequence[str], Path], None]
"""Runs `ppd stage` with these arguments in this folder; raises when it fails."""


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
    root: Path, settings: Settings, timestamp: datetime, run_stage: RunStage | None = None
) -> Mapping[str, Any]:
    """Evaluate the models at `root` as of `timestamp` and return the line that was added to evaluations/history.jsonl.

    A timestamp that is there already is evaluated again, and its line replaced: the models may have changed. A run that
    was killed goes on with what its samples hold. Raises InputError when there are no models yet.
    """
    missing = [path for path in READ if not (root / path).exists()]
    if missing:
        raise InputError(f"there is nothing to evaluate yet: no {', '.join(missing)}", fix="Run `dvc repro` first.")
    folder = Layout(root).reevaluations / name_of(timestamp)
    evaluation = evaluation_of(timestamp, settings)
    _lay_out(root, folder, settings.model_copy(update={"evaluation": evaluation}))
    for stage in STAGES:
        (run_stage or _run_stage)(stage, folder)
    line = {
        "date": name_of(timestamp),
        "first_seed": evaluation.first_seed,
        "captions_per_user": evaluation.captions_per_user,
        "model": json.loads((root / "models" / "ppd" / "config.json").read_text()),
        "win_rates": json.loads((folder / "reports" / "win_rates.json").read_text()),
    }
    _remember(Layout(root).history, line)
    shutil.rmtree(folder / "artifacts")
    return line


def history(root: Path) -> list[dict[str, Any]]:
    """All re-evaluations, by date."""
    path = Layout(root).history
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda line: str(line["date"]))


def _lay_out(root: Path, folder: Path, settings: Settings) -> None:
    """A folder in which the stages find what they read, and settings that differ in what the timestamp decides."""
    for path in READ:
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((root / path).resolve())
    with atomic_path(folder / "params.yaml") as params, params.open("w", encoding="utf-8") as file:
        YAML().dump(settings.model_dump(mode="json"), file)


def _run_stage(arguments: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-c", "from ppd.cli import main; main()", "stage", *arguments]
    subprocess.run(command, cwd=folder, check=True)


def _remember(path: Path, line: Mapping[str, Any]) -> None:
    others = [other for other in history(path.parents[1]) if other["date"] != line["date"]]
    lines = sorted([*others, line], key=lambda each: str(each["date"]))
    with atomic_path(path) as fresh:
        fresh.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
