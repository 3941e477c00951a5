"""Table A: several rewards in one model. Each reward is one "user", known by a one-hot embedding.

Every training pair of the log is labelled by each reward in place of the user: the image that scores higher wins.
The ceiling of a reward is pooled DPO on that reward's labels alone, at the same number of steps.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.sampling.store import read_samples
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.run import finetune
from ppd.evaluation.plan import UNCONDITIONAL, PlannedImages
from ppd.evaluation.plots import strip
from ppd.evaluation.tables import SAMPLE, Pixels
from ppd.experiments.models import base_model, sample_once
from ppd.experiments.plan import sampling_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.scorers import load_reward_functions
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.experiments.shared_inputs import ImageMeasures
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.settings import Method, Settings
from ppd.simulation.truth.readings import read_features
from ppd.statistics.bootstrap import clustered_mean, clustered_ratio

CLEAR_SHARE = 0.5
"""Of each reward's pairs only those that it tells apart best are learned from: the others are nearly noise."""


def write_rewards(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Train, sample and score everything; write the result and, beside it, strips. A killed run goes on."""
    names, out = list(experiments.rewards.scorers), layout.experiment_results / "rewards.json"
    described, inputs = [settings, experiments.rewards, experiments.trial], [layout.preferences / "pairs.parquet"]
    with resumable(layout.experiment_work / "rewards", described, inputs) as work:
        if not (work / "scores.parquet").exists():
            scores = score_log(settings, names, Preferences.open(layout.preferences))
            with atomic_path(work / "scores.parquet") as fresh:
                scores.to_parquet(fresh)
        models = {"ppd": "ppd", "dpo": "dpo", "sft": "sft"} | {f"only {name}": "dpo" for name in names}
        jobs = {model: (settings, experiments, layout, model, method, work) for model, method in models.items()}
        run_side_by_side(_train_and_sample, jobs, work / "logs", n_workers=experiments.n_workers)
        samples = {file.stem: read_samples(file) for file in sorted((work / "samples").glob("*.parquet"))}
        with atomic_path(out.with_suffix(".png")) as fresh:
            fresh.write_bytes(interpolation_strips(*samples["interpolations"], columns=len(experiments.rewards.shares)))
        write_json(out, _result(settings, experiments, layout, samples))


def score_log(settings: Settings, names: Sequence[str], log: Preferences) -> pd.DataFrame:
    """Each reward of both images of every training pair: columns chosen.NAME, rejected.NAME; index pair_id."""
    pairs = log.pairs[log.pairs.role == "train"].set_index("pair_id")
    scorers = load_reward_functions(names, settings)
    table = pairs[["caption", "chosen_uid", "rejected_uid"]].copy()
    for side in ("chosen", "rejected"):
        images = [np.asarray(image) for image in log.images(pairs[f"{side}_uid"].tolist())]
        for name, scorer in scorers.items():
            table[f"{side}.{name}"] = scorer(images, pairs.caption.tolist())
    return table


def reward_data(scores: pd.DataFrame, names: Sequence[str], encoded: Encoded, only: str | None = None) -> TrainingData:
    """Pairs labelled by each reward as if it were a user, all of them or `only` one's.

    A reward's embedding is its one-hot row times √n, so that its mean square is 1, as that of a whitened embedding.
    """
    parts = []
    for user, name in enumerate(names):
        gap = scores[f"chosen.{name}"] - scores[f"rejected.{name}"]
        clear = scores[gap.abs() >= gap.abs().quantile(1 - CLEAR_SHARE)]
        first = (gap[clear.index] > 0).to_numpy()
        chosen, rejected = clear.chosen_uid.to_numpy(), clear.rejected_uid.to_numpy()
        winners, losers = np.where(first, chosen, rejected), np.where(first, rejected, chosen)
        if only in (None, name):
            parts.append(pd.DataFrame({"user": user, "caption": clear.caption, "winner": winners, "loser": losers}))
    rows = pd.concat(parts, ignore_index=True)
    pairs = Pairs(
        user=torch.tensor(rows.user.to_numpy()),
        caption=torch.tensor(encoded.caption_row[rows.caption].to_numpy()),
        chosen=torch.tensor(encoded.image_row[rows.winner].to_numpy()),
        rejected=torch.tensor(encoded.image_row[rows.loser].to_numpy()),
    )
    nothing, named = pairs[:0], hashlib.sha256(rows.to_csv().encode()).hexdigest()[:16]
    return TrainingData(
        latents=encoded.latents,
        text=encoded.text,
        embeddings=one_hots(len(names)),
        first=torch.arange(len(names) + 1),
        train=pairs,
        seen=nothing,
        held_out=nothing,
        pictures_hash=named,
        content_hash=named,
    )


def one_hots(n: int) -> Tensor:
    """The embeddings of n rewards: [n, 1, n], mean square 1."""
    return (torch.eye(n) * n**0.5)[:, None]


def requests(captions: Sequence[str], users: Sequence[str], n_seeds: int) -> pd.DataFrame:
    """Every caption with every seed for each user: `tables.SAMPLE`."""
    return pd.MultiIndex.from_product([users, captions, range(n_seeds)], names=SAMPLE).to_frame(index=False)


def points_between(names: Sequence[str], shares: Sequence[float]) -> dict[str, Tensor]:
    """Embeddings on and beyond the line from each reward to the next: "a~b~0.25" -> [1, n]."""
    users = one_hots(len(names))
    return {
        f"{names[a]}~{names[b]}~{share:g}": users[a].lerp(users[b], share)
        for a in range(len(names))
        for b in range(a + 1, len(names))
        for share in shares
    }


def interpolation_strips(sampled: pd.DataFrame, images: Pixels, columns: int) -> bytes:
    """The first caption's first image at each point of each line between two rewards, a row a line, as a PNG."""
    first = sampled[(sampled.caption == sampled.caption.iloc[0]) & (sampled.seed == 0)]
    return strip(list(images[first.index]), columns=columns)


def _train_and_sample(
    settings: Settings, experiments: ExperimentSettings, layout: Layout, model: str, method: Method, work: Path
) -> None:
    """One of Table A's models: trained, and everything sampled that is asked of it."""
    names = list(experiments.rewards.scorers)
    settings = changed(settings, {"finetune": dict(experiments.rewards.finetune)})
    only = model.removeprefix("only ") if model.startswith("only ") else None
    folder = work / "models" / model
    if not folder.exists():
        finetune(
            base_model(settings, settings.finetune.precision),
            reward_data(pd.read_parquet(work / "scores.parquet"), names, Encoded.open(layout.latents), only),
            settings.finetune,
            method,
            folder,
            work / f"{model}.unfinished",
            reference_folder=layout.reference_errors,
            origin={},
        )
    prompts = Preferences.open(layout.preferences).captions
    captions = sorted(prompts.caption[prompts.split == "eval"])
    n_seeds, sampling = experiments.rewards.n_seeds, sampling_of(settings.sampling, experiments.trial)
    unconditional = requests(captions, [UNCONDITIONAL], n_seeds)
    if method == "ppd":
        points = points_between(names, experiments.rewards.shares)
        between = requests(captions, list(points), experiments.rewards.seeds_per_interpolation)
        own = dict(zip(names, one_hots(len(names)), strict=True))
        planned = {
            "ppd": PlannedImages(requests(captions, names, n_seeds), own),
            "interpolations": PlannedImages(between, points),
            "base": PlannedImages(unconditional, {}),
        }
    else:  # a pooled adapter reads every embedding but zero as the one that stands for all users
        planned = {model: PlannedImages(unconditional, {UNCONDITIONAL: torch.ones(1, len(names))})}
    for name, images in planned.items():
        sample_once(settings, folder, images.requests, images.users, work / "samples" / f"{name}.parquet", sampling)


def _result(
    settings: Settings,
    experiments: ExperimentSettings,
    layout: Layout,
    samples: Mapping[str, tuple[pd.DataFrame, Pixels]],
) -> dict[str, object]:
    names = list(experiments.rewards.scorers)
    scorers, measures = load_reward_functions(names, settings), ImageMeasures.load(settings, layout)
    tables = {}
    rows: list[dict[str, object]] = []
    for model, (sampled, images) in samples.items():
        table = sampled.assign(**{name: scorer(images, sampled.caption.tolist()) for name, scorer in scorers.items()})
        table["right"] = read_features(model, sampled, images, measures.classifier).concept_right.to_numpy()
        tables[model] = table
        for user, part in () if model == "interpolations" else table.groupby("user_id", sort=False):
            captions = part.caption.to_numpy()
            scores = {name: clustered_mean(part[name].to_numpy(), captions).as_row() for name in names}
            precision, right = measures.precision(images[part.index.to_numpy()]), float(part.right.mean())
            row = {"model": model, "user": user, "n_images": len(part), "scores": scores}
            rows.append({**row, "concept_accuracy": right, "precision": precision})
    base, captions = tables["base"], tables["base"].caption.to_numpy()
    kept = {}
    for name in names:
        ours = tables["ppd"].loc[tables["ppd"].user_id == name, name].to_numpy()
        at_base = base[name].to_numpy()
        ceiling = tables[f"only {name}"][name].to_numpy() - at_base
        kept[name] = clustered_ratio(ours - at_base, ceiling, captions).as_row()
    return {
        "rewards": names,
        "n_captions": int(base.caption.nunique()),
        "spread": {name: float(base[name].std()) for name in names},
        "rows": rows,
        "kept": kept,
        "interpolations": _interpolation_rows(tables["interpolations"], base, names),
    }


def _interpolation_rows(table: pd.DataFrame, base: pd.DataFrame, names: Sequence[str]) -> list[dict[str, object]]:
    """Both rewards' gain over the base at each point between two rewards, in SD of the base's images."""
    at_base = base.set_index(["caption", "seed"])
    rows: list[dict[str, object]] = []
    for point, part in table.groupby("user_id", sort=False):
        first, second, share = str(point).split("~")
        same = at_base.loc[pd.MultiIndex.from_frame(part[["caption", "seed"]])]
        row: dict[str, object] = {"first": first, "second": second, "share": float(share), "n_images": len(part)}
        for role, name in (("gain_first", first), ("gain_second", second)):
            gain = clustered_mean(part[name].to_numpy() - same[name].to_numpy(), part.caption.to_numpy())
            row[role] = gain.scaled(1 / float(base[name].std())).as_row()
        row["concept_accuracy"] = float(part.right.mean())
        rows.append(row)
    return rows
