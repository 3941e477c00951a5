"""What a choice of ours is worth: each variant trained with several seeds, on users that nothing was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ppd.evaluation.win_rates import win_rates
from ppd.experiments.data import narrowed
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import COST
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.trial import IMPLICIT, MEASURES, VERDICTS, trial, trial_settings
from ppd.files import read_json, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings


def write_ablation(settings: Settings, experiments: ExperimentSettings, layout: Layout, name: str) -> None:
    """Run one variant with every seed, side by side, and write its result.

    A killed run goes on: what each seed has finished is in `layout.experiment_work` until the result is written.
    """
    variant, seeds = experiments.variants[name], experiments.seeds
    run = trial_settings(settings, experiments, variant, seeds[0])
    inputs = [layout.preferences / "pairs.parquet", *sorted(layout.shared_inputs.iterdir())]
    with resumable(layout.experiment_work / name, [run, variant, experiments.trial], inputs) as work:
        folders = {seed: work / f"seed-{seed}" for seed in seeds}
        jobs = {
            f"seed-{seed}": (settings, experiments, name, seed, layout, folder)
            for seed, folder in folders.items()
            if not (folder / IMPLICIT).exists()
        }
        run_side_by_side(trial, jobs, work / "logs", n_workers=experiments.n_workers)
        log = narrowed(Preferences.open(layout.preferences), variant.n_users, variant.pairs_share)
        users = log.users[log.users.split == "train"]
        result = {
            "variant": name,
            "varies": variant.varies,
            "value": variant.value,
            "seeds": list(seeds),
            "steps": run.finetune.steps,
            "pairs_per_step": run.finetune.pairs_per_step,
            "n_train_users": len(users),
            "n_train_pairs": int((log.pairs.user_id.isin(users.user_id) & (log.pairs.role == "train")).sum()),
            "users": {
                group: summary({seed: folder / group for seed, folder in folders.items()})
                for group in ("validation", "test")
                if all((folder / group / MEASURES).exists() for folder in folders.values())
            },
            "implicit": mean_of([read_json(folder / IMPLICIT) for folder in folders.values()]),
            **mean_of([read_json(folder / COST) for folder in folders.values()]),
        }
        write_json(layout.experiment_results / "ablation" / f"{name}.json", result)


def summary(folders: dict[int, Path]) -> dict[str, object]:
    """Win rates over all seeds together and for each, and the mean measures of the images.

    gain_by_user: each user's mean gain over the base, in SD: what a paired comparison of two variants needs, since all
    variants sample with the same noises and meet the same opponents.
    """
    verdicts = {seed: pd.read_parquet(folder / VERDICTS).assign(training_seed=seed) for seed, folder in folders.items()}
    together = pd.concat(verdicts.values(), ignore_index=True)
    against_base = together[(together.opponent == "base") & (together.pairing == "independent")]
    gains = against_base.groupby("user_id").gain_sd.mean()
    return {
        "win_rates": win_rates(together),
        "by_seed": {str(seed): win_rates(table) for seed, table in verdicts.items()},
        "gain_by_user": {str(user_id): round(gain, 5) for user_id, gain in gains.items()},
        "measures": mean_of([read_json(folder / MEASURES) for folder in folders.values()]),
    }


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over several results of the same names."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
