"""Implicit reward accuracy: does the fine-tuned model know what an unseen person chose, from their four pairs?"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import load_adapter
from ppd.diffusion.encoding.encode import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData
from ppd.experiments.implicit import first_embeddings, rewards, shuffled_users
from ppd.experiments.models import base_model
from ppd.experiments.paths import Paths
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.experiments.supports import ExactReader, support_pairs
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.embeddings import load_embeddings
from ppd.users.manifest import whitened
from ppd.users.whitening import Whitening

N_DRAWS = 4


def write_prediction(settings: Settings, experiments: ExperimentSettings, paths: Paths, out: Path) -> None:
    """Read the test people's held-out choices with every seed's adapter and with pooled DPO's; write `out`."""
    folders = {f"ppd, seed {seed}": adapter_folder(settings, paths, seed) for seed in experiments.seeds}
    folders["dpo"] = paths.models / "dpo"
    work = work_for(paths.work / "implicit", [settings.finetune], adapter_files(settings, experiments, paths))
    jobs = {
        name: (settings, paths, folder, work / f"{name}.json")
        for name, folder in folders.items()
        if not (work / f"{name}.json").exists()
    }
    run_side_by_side(_read_choices, jobs, work / "logs", n_workers=experiments.n_workers)
    found = {name: json.loads((work / f"{name}.json").read_text()) for name in folders}
    log = Preferences.open(paths.preferences)
    choices = log.pairs.set_index("pair_id").loc[found["dpo"]["pair_id"]]
    people = choices.user_id.to_numpy()
    exact = ExactReader(paths.truth, settings.people)
    beliefs = exact.beliefs(support_pairs(log, sorted(set(people)), settings.preferences.pairs_per_group))
    readers = {"exact posterior": [exact.judge(beliefs, choices)], "dpo": [_right(found["dpo"]["own"])]}
    for reader in ("own", "exchanged"):
        readers[f"ppd, {reader}"] = [_right(found[f"ppd, seed {seed}"][reader]) for seed in experiments.seeds]
    rows = []
    for name, by_seed in readers.items():
        mean = clustered_mean(np.concatenate(by_seed), np.tile(people, len(by_seed)))
        seeds = [float(right.mean()) for right in by_seed]
        rows.append({"reader": name, "mean": mean.mean, "ci_low": mean.low, "ci_high": mean.high, "by_seed": seeds})
    result = {"n_users": len(set(people)), "n_choices": len(people), "n_draws": N_DRAWS, "rows": rows}
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(paths.work / "implicit")


def with_test_people_held_out(settings: Settings, paths: Paths) -> tuple[TrainingData, list[str]]:
    """Training data whose `held_out` are the test people's evaluation pairs, and those pairs' ids."""
    log = Preferences.open(paths.preferences)
    role = {"test": "validation", "validation": "test"}  # assembling measures on "validation" alone
    exchanged = replace(log, users=log.users.assign(split=log.users.split.replace(role)))
    embeddings = whitened(load_embeddings(paths.users), Whitening.load(paths.whitening))
    test = set(log.users.user_id[log.users.split == "test"])
    pairs = log.pairs[log.pairs.user_id.isin(test) & (log.pairs.role == "eval")].sort_values("pair_id")
    return training_data(exchanged, Encoded.open(paths.latents), embeddings), pairs.pair_id.tolist()


def _read_choices(settings: Settings, paths: Paths, folder: Path, out: Path) -> None:
    data, pair_ids = with_test_people_held_out(settings, paths)
    backbone = base_model(settings, settings.finetune.precision)
    adapter = load_adapter(folder, backbone)
    person = data.held_out.person
    readers: dict[str, Tensor] = {"own": first_embeddings(data, person)}
    if adapter.pooled_embedding is None:
        readers["exchanged"] = first_embeddings(data, shuffled_users(person))
    distribution = settings.finetune.timesteps
    found = rewards(backbone, adapter, data, data.held_out, readers, distribution, N_DRAWS)
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps({"pair_id": pair_ids} | {name: r.tolist() for name, r in found.items()}))


def _right(reward: list[float]) -> np.ndarray:
    """1 where the implicit reward prefers the chosen image, 0 where not, .5 where it does not care."""
    return (torch.tensor(reward, dtype=torch.float64).sign().numpy() + 1) / 2
