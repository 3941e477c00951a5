"""What a choice of ours is worth: each variant trained with several seeds, on people that nobody was trained on."""

import json
import shutil
from pathlib import Path

import pandas as pd

from ppd.evaluation.win_rates import win_rates
from ppd.experiments.data import narrowed
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import COST
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.trial import IMPLICIT, MEASURES, VERDICTS, trial, trial_settings
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.settings import Settings


def ablate(settings: Settings, experiments: ExperimentSettings, name: str, layout: Layout, out: Path) -> None:
    """Run one variant with every seed, side by side, and write its result to the JSON file `out`.

    A killed run goes on: what each seed has finished lies in `layout.experiment_work` until the result is written.
    """
    variant = experiments.variants[name]
    run = trial_settings(settings, experiments, variant, experiments.seeds[0])
    inputs = [layout.preferences / "pairs.parquet", *sorted(layout.shared_inputs.iterdir())]
    work = work_folder(layout.experiment_work / name, [run, variant, experiments.trial], inputs)
    folders = {seed: work / f"seed-{seed}" for seed in experiments.seeds}
    jobs = {
        f"seed-{seed}": (settings, experiments, name, seed, layout, folder)
        for seed, folder in folders.items()
        if not (folder / IMPLICIT).exists()
    }
    run_side_by_side(trial, jobs, work / "logs", n_workers=experiments.n_workers)
    log = narrowed(Preferences.open(layout.preferences), variant.n_users, variant.pairs_share)
    people = log.users[log.users.split == "train"]
    n_pairs = int((log.pairs.user_id.isin(people.user_id) & (log.pairs.role == "train")).sum())
    result = {
        "variant": name,
        "varies": variant.varies,
        "value": variant.value,
        "seeds": list(experiments.seeds),
        "steps": run.finetune.steps,
        "pairs_per_step": run.finetune.pairs_per_step,
        "n_train_users": len(people),
        "n_train_pairs": n_pairs,
        "users": {
            group: summary({seed: folder / group for seed, folder in folders.items()})
            for group in ("validation", "test")
            if all((folder / group / MEASURES).exists() for folder in folders.values())
        },
        "implicit": mean_of([folder / IMPLICIT for folder in folders.values()]),
        "train_cpu_s": mean_of([folder / COST for folder in folders.values()])["train_cpu_s"],
    }
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(layout.experiment_work / name)


def summary(folders: dict[int, Path]) -> dict[str, object]:
    """Win rates over all seeds together and for each, and the mean measures of the pictures."""
    verdicts = {seed: pd.read_parquet(folder / VERDICTS) for seed, folder in folders.items()}
    return {
        "win_rates": win_rates(pd.concat(verdicts.values(), ignore_index=True)),
        "by_seed": {str(seed): win_rates(table) for seed, table in verdicts.items()},
        "gain_by_user": gain_by_user(pd.concat(verdicts.values(), ignore_index=True)),
        "measures": mean_of([folder / MEASURES for folder in folders.values()]),
    }


def gain_by_user(verdicts: pd.DataFrame) -> dict[str, float]:
    """Each person's mean gain over the base, in SD: what a paired comparison of two variants needs.

    All variants draw with the same noises and meet the same opponents.
    """
    against_base = verdicts[(verdicts.opponent == "base") & (verdicts.pairing == "independent")]
    return {str(user_id): round(gain, 5) for user_id, gain in against_base.groupby("user_id").gain_sd.mean().items()}


def mean_of(files: list[Path]) -> dict[str, float]:
    """The mean of each number over several JSON files of the same names."""
    rows = [json.loads(file.read_text()) for file in files]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
