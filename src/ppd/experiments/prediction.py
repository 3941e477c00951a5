"""Implicit reward accuracy: does the fine-tuned model know what an unseen user chose, from their four pairs?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import load_adapter
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData, shuffled_users
from ppd.experiments.implicit import first_embeddings, rewards
from ppd.experiments.models import base_model, user_embeddings
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.seeds import adapter_files, adapter_folder
from ppd.experiments.settings import ExperimentSettings
from ppd.files import read_json, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Settings
from ppd.simulation.truth.exact import ExactObserver, support_pairs
from ppd.statistics.bootstrap import clustered_mean

N_DRAWS = 4


def write_prediction(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Read the test users' held-out choices with every seed's adapter and with pooled DPO's; write the result."""
    folders = {f"ppd, seed {seed}": adapter_folder(settings, layout, seed) for seed in experiments.seeds}
    folders["dpo"] = layout.models / "dpo"
    weights = adapter_files(settings, experiments, layout)
    with resumable(layout.experiment_work / "implicit", [settings.finetune], weights) as work:
        files = {name: work / f"{name}.json" for name in folders}
        jobs = {name: (settings, layout, folders[name], file) for name, file in files.items() if not file.exists()}
        run_side_by_side(_read_choices, jobs, work / "logs", n_workers=experiments.n_workers)
        found = {name: read_json(file) for name, file in files.items()}
        log = Preferences.open(layout.preferences)
        choices = log.pairs.set_index("pair_id").loc[found["dpo"]["pair_id"]]
        users = choices.user_id.to_numpy()
        exact = ExactObserver(layout.truth, settings.people)
        beliefs = exact.beliefs(support_pairs(log, sorted(set(users)), settings.preferences.pairs_per_group))
        readers = {"exact posterior": [exact.judge(beliefs, choices)], "dpo": [_right(found["dpo"]["own"])]}
        for reader in ("own", "shuffled_user"):
            by_seed = [_right(found[f"ppd, seed {seed}"][reader]) for seed in experiments.seeds]
            readers[f"ppd, {reader.replace('_', ' ')}"] = by_seed
        rows = []
        for name, by_seed in readers.items():
            mean = clustered_mean(np.concatenate(by_seed), np.tile(users, len(by_seed)))
            rows.append({"reader": name, **mean.as_row(), "by_seed": [float(right.mean()) for right in by_seed]})
        result = {"n_users": len(set(users)), "n_choices": len(users), "n_draws": N_DRAWS, "rows": rows}
        write_json(layout.experiment_results / "implicit.json", result)


def with_test_users_held_out(settings: Settings, layout: Layout) -> tuple[TrainingData, list[str]]:
    """Training data whose `held_out` are the test users' evaluation pairs, and those pairs' ids."""
    log = Preferences.open(layout.preferences)
    role = {"test": "validation", "validation": "test"}  # assembling measures on "validation" alone
    swapped = replace(log, users=log.users.assign(split=log.users.split.replace(role)))
    test = set(log.users.user_id[log.users.split == "test"])
    pairs = log.pairs[log.pairs.user_id.isin(test) & (log.pairs.role == "eval")].sort_values("pair_id")
    return training_data(swapped, Encoded.open(layout.latents), user_embeddings(layout)), pairs.pair_id.tolist()


def _read_choices(settings: Settings, layout: Layout, folder: Path, out: Path) -> None:
    data, pair_ids = with_test_users_held_out(settings, layout)
    backbone = base_model(settings, settings.finetune.precision)
    adapter = load_adapter(folder, backbone)
    user = data.held_out.user
    readers: dict[str, Tensor] = {"own": first_embeddings(data, user)}
    if adapter.pooled_embedding is None:
        readers["shuffled_user"] = first_embeddings(data, shuffled_users(user))
    distribution = settings.finetune.timesteps
    found = rewards(backbone, adapter, data, data.held_out, readers, distribution, N_DRAWS)
    write_json(out, {"pair_id": pair_ids} | {name: reward.tolist() for name, reward in found.items()})


def _right(reward: list[float]) -> np.ndarray:
    """1 where the implicit reward prefers the chosen image, 0 where not, .5 where it does not care."""
    return (torch.tensor(reward, dtype=torch.float64).sign().numpy() + 1) / 2
