"""Table A: several rewards in one model. Each reward is one "user", known by a one-hot embedding.

Every training pair of the log is labelled by each reward in place of the person: the image that scores higher wins.
The ceiling of a reward is pooled DPO on that reward's labels alone, at the same number of steps.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import load_adapter, read_config
from ppd.diffusion.encoding.encode import Encoded
from ppd.diffusion.sampling.store import draw, read_samples
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.run import finetune
from ppd.evaluation.plots import strip
from ppd.experiments.models import base_model
from ppd.experiments.paths import Paths
from ppd.experiments.plan import sampling_of
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.scorers import load_scorers
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.experiments.shared_inputs import manifold
from ppd.experiments.work import work_for
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Method, Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.readings import read_features
from ppd.statistics.bootstrap import Interval, clustered_mean
from ppd.statistics.precision import precision

Floats = NDArray[np.float64]
CLEAR_SHARE = 0.5
"""Of each reward's pairs only those that it tells apart best are learned from: the others are nearly noise."""
N_RESAMPLES = 10_000


def write_rewards(settings: Settings, experiments: ExperimentSettings, paths: Paths, out: Path) -> None:
    """Train, draw and score everything; write the JSON file `out` and, beside it, strips. A killed run goes on."""
    names = list(experiments.rewards.scorers)
    work = work_for(
        paths.work / "rewards",
        [settings, experiments.rewards, experiments.trial],
        [paths.preferences / "pairs.parquet"],
    )
    if not (work / "scores.parquet").exists():
        scores = score_log(settings, names, Preferences.open(paths.preferences))
        with atomic_path(work / "scores.parquet") as fresh:
            scores.to_parquet(fresh)
    models = {"ppd": "ppd", "dpo": "dpo", "sft": "sft"} | {f"only {name}": "dpo" for name in names}
    jobs = {model: (settings, experiments, paths, model, method, work) for model, method in models.items()}
    run_side_by_side(_train_and_draw, jobs, work / "logs", n_workers=experiments.n_workers)
    drawn = {file.stem: read_samples(file) for file in sorted((work / "drawn").glob("*.parquet"))}
    with atomic_path(out.with_suffix(".png")) as fresh:
        fresh.write_bytes(way_strips(*drawn["ways"], columns=len(experiments.rewards.shares)))
    with atomic_path(out) as fresh:
        fresh.write_text(json.dumps(_result(settings, experiments, paths, drawn), indent=1) + "\n")
    shutil.rmtree(paths.work / "rewards")


def score_log(settings: Settings, names: Sequence[str], log: Preferences) -> pd.DataFrame:
    """Each reward of both images of every training pair: columns chosen.NAME, rejected.NAME; index pair_id."""
    pairs = log.pairs[log.pairs.role == "train"].set_index("pair_id")
    scorers = load_scorers(names, settings)
    table = pairs[["caption", "chosen_uid", "rejected_uid"]].copy()
    for side in ("chosen", "rejected"):
        images = [np.asarray(image) for image in log.images(pairs[f"{side}_uid"].tolist())]
        for name, scorer in scorers.items():
            table[f"{side}.{name}"] = scorer(images, pairs.caption.tolist())
    return table


def reward_data(scores: pd.DataFrame, names: Sequence[str], encoded: Encoded, only: str | None = None) -> TrainingData:
    """Pairs labelled by each reward as if it were a person, all of them or `only` one's.

    A reward's embedding is its one-hot row times √n, so that its mean square is 1, as that of a whitened embedding.
    """
    parts = []
    for person, name in enumerate(names):
        gap = scores[f"chosen.{name}"] - scores[f"rejected.{name}"]
        clear = scores[gap.abs() >= gap.abs().quantile(1 - CLEAR_SHARE)]
        first = (gap[clear.index] > 0).to_numpy()
        chosen, rejected = clear.chosen_uid.to_numpy(), clear.rejected_uid.to_numpy()
        winners, losers = np.where(first, chosen, rejected), np.where(first, rejected, chosen)
        if only in (None, name):
            parts.append(pd.DataFrame({"person": person, "caption": clear.caption, "winner": winners, "loser": losers}))
    rows = pd.concat(parts, ignore_index=True)
    pairs = Pairs(
        person=torch.tensor(rows.person.to_numpy()),
        caption=torch.tensor(encoded.caption_row[rows.caption].to_numpy()),
        chosen=torch.tensor(encoded.image_row[rows.winner].to_numpy()),
        rejected=torch.tensor(encoded.image_row[rows.loser].to_numpy()),
    )
    nothing = pairs[:0]
    return TrainingData(
        latents=encoded.latents,
        text=encoded.text,
        embeddings=one_hots(len(names)),
        first=torch.arange(len(names) + 1),
        train=pairs,
        seen=nothing,
        held_out=nothing,
        content_hash=hashlib.sha256(rows.to_csv().encode()).hexdigest()[:16],
    )


def one_hots(n: int) -> Tensor:
    """The embeddings of n rewards: [n, 1, n], mean square 1."""
    return (torch.eye(n) * n**0.5)[:, None]


def wishes(captions: Sequence[str], users: Sequence[str], n_seeds: int) -> pd.DataFrame:
    """Every caption with every seed for each user: rows of user_id, caption, seed."""
    index = pd.MultiIndex.from_product([users, captions, range(n_seeds)], names=["user_id", "caption", "seed"])
    return index.to_frame(index=False)


def ways(names: Sequence[str], shares: Sequence[float]) -> dict[str, Tensor]:
    """Embeddings on and beyond the line from each reward to the next: "a~b~0.25" -> [1, n]."""
    users = one_hots(len(names))
    return {
        f"{names[a]}~{names[b]}~{share:g}": users[a].lerp(users[b], share)
        for a in range(len(names))
        for b in range(a + 1, len(names))
        for share in shares
    }


def way_strips(asked: pd.DataFrame, images: NDArray[np.uint8], columns: int) -> bytes:
    """The first caption's first picture at each point of each line between two rewards, a row a line, as a PNG."""
    first = asked[(asked.caption == asked.caption.iloc[0]) & (asked.seed == 0)]
    return strip(list(images[first.index]), columns=columns)


def mean_gain(scores: Floats, base: Floats, captions: NDArray[np.generic]) -> Interval:
    """Mean of scores − base, image by image (same caption and seed), its interval over captions."""
    return clustered_mean(scores - base, captions)


def kept_share(ours: Floats, ceiling: Floats, captions: NDArray[np.generic]) -> Interval:
    """Share of the ceiling's mean gain [N] that ours [N] has, its interval over captions."""
    _, index = np.unique(captions, return_inverse=True)
    n = int(index.max()) + 1
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    top, bottom = (weights @ np.bincount(index, weights=gains, minlength=n) for gains in (ours, ceiling))
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    return Interval(float(ours.mean() / ceiling.mean()), float(low), float(high))


def _train_and_draw(
    settings: Settings, experiments: ExperimentSettings, paths: Paths, model: str, method: Method, work: Path
) -> None:
    """One of Table A's models: trained, and everything drawn that is asked of it."""
    names = list(experiments.rewards.scorers)
    settings = changed(settings, {"finetune": dict(experiments.rewards.finetune)})
    only = model.removeprefix("only ") if model.startswith("only ") else None
    folder = work / "models" / model
    if not folder.exists():
        data = reward_data(pd.read_parquet(work / "scores.parquet"), names, Encoded.open(paths.latents), only)
        backbone = base_model(settings, settings.finetune.precision)
        unfinished = work / f"{model}.unfinished"
        finetune(
            backbone, data, settings.finetune, method, folder, unfinished, reference_folder=paths.reference, origin={}
        )
    backbone = base_model(settings, settings.sampling.precision)
    adapter = load_adapter(folder, backbone)
    identity = read_config(folder).model_dump_json()
    captions = _captions(paths)
    n_seeds, seeds_per_interpolation = experiments.rewards.n_seeds, experiments.rewards.seeds_per_interpolation
    wanted: dict[str, tuple[pd.DataFrame, dict[str, Tensor]]]
    if method == "ppd":
        points = ways(names, experiments.rewards.shares)
        wanted = {
            "ppd": (wishes(captions, names, n_seeds), dict(zip(names, one_hots(len(names)), strict=True))),
            "ways": (wishes(captions, list(points), seeds_per_interpolation), points),
            "base": (wishes(captions, [""], n_seeds), {}),
        }
    else:  # a pooled adapter reads every embedding but zero as everybody
        wanted = {model: (wishes(captions, [""], n_seeds), {"": torch.ones(1, len(names))})}
    for name, (rows, users) in wanted.items():
        file = work / "drawn" / f"{name}.parquet"
        if not file.exists():
            sampling = sampling_of(settings.sampling, experiments.trial)
            draw(rows, backbone, sampling, file, adapter=adapter, people=users, identity=identity)


def _captions(paths: Paths) -> list[str]:
    captions = Preferences.open(paths.preferences).captions
    return sorted(captions.caption[captions.split == "eval"])


def _result(
    settings: Settings,
    experiments: ExperimentSettings,
    paths: Paths,
    drawn: Mapping[str, tuple[pd.DataFrame, NDArray[np.uint8]]],
) -> dict[str, object]:
    names = list(experiments.rewards.scorers)
    scorers = load_scorers(names, settings)
    reader = AttributeClassifier.from_pretrained(settings.models.attribute_classifier).eval()
    clip, real = ClipScorer.from_pretrained(settings.models.clip), manifold(paths.shared_inputs)
    tables = {}
    rows: list[dict[str, object]] = []
    for model, (asked, images) in drawn.items():
        table = asked.assign(**{name: scorer(images, asked.caption.tolist()) for name, scorer in scorers.items()})
        table["right"] = read_features(model, asked, images, reader).concept_right.to_numpy()
        tables[model] = table
        for user, part in () if model == "ways" else table.groupby("user_id", sort=False):
            at = part.index.to_numpy()
            rows.append(
                {
                    "model": model,
                    "user": user,
                    "n_images": len(part),
                    "scores": {name: _mean(part, name) for name in names},
                    "concept_accuracy": float(part.right.mean()),
                    "precision": precision(torch.as_tensor(clip.embed_images(images[at])), real),
                }
            )
    base, captions = tables["base"], tables["base"].caption.to_numpy()
    kept = {}
    for name in names:
        ours = tables["ppd"][tables["ppd"].user_id == name]
        ceiling = tables[f"only {name}"][name].to_numpy() - base[name].to_numpy()
        share = kept_share(ours[name].to_numpy() - base[name].to_numpy(), ceiling, captions)
        kept[name] = {"mean": share.mean, "ci_low": share.low, "ci_high": share.high}
    return {
        "rewards": names,
        "n_captions": int(base.caption.nunique()),
        "spread": {name: float(base[name].std()) for name in names},
        "rows": rows,
        "kept": kept,
        "ways": _way_rows(tables["ways"], base, names),
    }


def _mean(part: pd.DataFrame, name: str) -> dict[str, float]:
    mean = clustered_mean(part[name].to_numpy(), part.caption.to_numpy())
    return {"mean": mean.mean, "ci_low": mean.low, "ci_high": mean.high}


def _way_rows(table: pd.DataFrame, base: pd.DataFrame, names: Sequence[str]) -> list[dict[str, object]]:
    """Both rewards' gain over the base at each point between two rewards, in SD of the base's images."""
    at_base = base.set_index(["caption", "seed"])
    rows: list[dict[str, object]] = []
    for point, part in table.groupby("user_id", sort=False):
        first, second, share = str(point).split("~")
        same = at_base.loc[pd.MultiIndex.from_frame(part[["caption", "seed"]])]
        row: dict[str, object] = {"first": first, "second": second, "share": float(share), "n_images": len(part)}
        for role, name in (("gain_first", first), ("gain_second", second)):
            gain = mean_gain(part[name].to_numpy(), same[name].to_numpy(), part.caption.to_numpy())
            spread = float(base[name].std())
            row[role] = {"mean": gain.mean / spread, "ci_low": gain.low / spread, "ci_high": gain.high / spread}
        row["concept_accuracy"] = float(part.right.mean())
        rows.append(row)
    return rows
