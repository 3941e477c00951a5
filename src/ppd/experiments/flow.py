"""Does it carry over to flow matching? The whole job again on a base that learned by it, and where it becomes unstable.

The base is the nano Z-Image (`ppd.pretrain.flow_prior`). What is trained, for whom it draws and who judges is as in the
pipeline; only what `experiments/params.yaml` says under `flow` differs, so what carries over is the method.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.diffusion.adapter.checkpoint import adapter_identity, load_adapter
from ppd.diffusion.encoding.encode import encode
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.sampling.run import sample_images
from ppd.diffusion.sampling.store import read_samples
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.curve import CURVE
from ppd.diffusion.training.run import finetune
from ppd.evaluation.plan import UNCONDITIONAL, image_requests, plan_comparisons, plan_requests
from ppd.evaluation.plots import strip
from ppd.evaluation.tables import Pixels
from ppd.evaluation.win_rates import win_rates
from ppd.experiments.models import base_model, first_embeddings_of_users, user_embeddings
from ppd.experiments.processes import run_side_by_side
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.files import atomic_path, write_json
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Method, Settings
from ppd.simulation.truth.image_quality import precision_of, renders
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features
from ppd.simulation.truth.utility import Tastes, judge

IMAGES, ADAPTER, LATENTS = "images.parquet", "adapter", "latents"
CURVE_POINTS = 25
"""So many means of a training curve are kept."""
PEOPLE_SHOWN = 6
ANCHORED = "ppd, anchored"


@dataclass(frozen=True)
class Run:
    """A training and the images that it is judged by; without a method, the base's own images."""

    name: str
    settings: Settings
    method: Method | None
    sampled: bool = True
    """False: only its curve is wanted."""


@dataclass(frozen=True)
class Seen:
    """A file of images as the attribute classifier reads it, with its concept accuracy and precision."""

    readings: pd.DataFrame
    measures: Mapping[str, float]


def write_flow(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Train and sample side by side, judge by the true taste, and write the result. A killed run goes on."""
    settings = changed(settings, experiments.flow.changes)
    weights = sorted((Path(settings.models.prior) / "transformer").glob("*.safetensors"))
    inputs = [layout.preferences / "pairs.parquet", layout.whitening, *layout.shard_files(), *weights]
    parts = [settings.models, settings.finetune, settings.sampling, settings.evaluation]
    described = [*parts, experiments.flow, list(experiments.seeds)]
    with resumable(layout.experiment_work / "flow", described, inputs) as work:
        _encode(settings, layout, work)
        job, unstable = list(job_runs(settings, experiments)), list(stability_runs(settings, experiments))
        jobs = {run.name: (run, layout, work) for run in (*job, *unstable)}
        run_side_by_side(train_and_sample, jobs, work / "logs", n_workers=experiments.n_workers)
        result = {
            "seeds": list(experiments.seeds),
            "embedding": settings.embedding.model_dump(mode="json"),
            "finetune": settings.finetune.model_dump(mode="json"),
            "sampling": settings.sampling.model_dump(mode="json"),
            **job_result(settings, experiments, layout, seen_images(job, settings, layout, work)),
            "stability_finetune": unstable[0].settings.finetune.model_dump(mode="json"),
            "stability": [stability_row(run, work / run.name / ADAPTER / CURVE) for run in unstable],
        }
        out = layout.experiment_results / "flow.json"
        with atomic_path(out.with_suffix(".png")) as fresh:
            fresh.write_bytes(pictures(settings, layout, work, experiments.seeds[0]))
        write_json(out, result)


def job_runs(settings: Settings, experiments: ExperimentSettings) -> Iterator[Run]:
    """The base, pooled DPO with the first seed, ppd with each, and ppd held by an anchor, for the test users."""
    yield Run("base", settings, None)
    seeded = {seed: changed(settings, {"finetune": {"seed": seed}}) for seed in experiments.seeds}
    yield Run("dpo", seeded[experiments.seeds[0]], "dpo")
    for seed in experiments.seeds:
        yield Run(f"ppd-seed-{seed}", seeded[seed], "ppd")
    anchored = {"finetune": {"loss": {"winner_anchor": max(experiments.flow.winner_anchors)}}}
    yield Run(ANCHORED, changed(seeded[experiments.seeds[0]], anchored), "ppd")


def stability_runs(settings: Settings, experiments: ExperimentSettings) -> Iterator[Run]:
    """One short training for each β and each weight of the winner's anchor."""
    short = changed(settings, {"finetune": experiments.flow.stability})
    for beta in experiments.flow.betas:
        for anchor in experiments.flow.winner_anchors:
            loss = {"beta": beta, "winner_anchor": anchor}
            run = changed(short, {"finetune": {"loss": loss}})
            yield Run(f"beta-{beta:g}-anchor-{anchor:g}", run, "ppd", sampled=False)


def train_and_sample(run: Run, layout: Layout, work: Path) -> None:
    """Leave in work/NAME: the adapter with its curve, and the images for unseen users; what is there is kept."""
    folder, settings = work / run.name, run.settings
    log = Preferences.open(layout.preferences)
    if run.method is not None and not (folder / ADAPTER).exists():
        finetune(
            base_model(settings, settings.finetune.precision),
            training_data(log, Encoded.open(work / LATENTS), user_embeddings(layout)),
            settings.finetune,
            run.method,
            folder / ADAPTER,
            folder / "unfinished",
            reference_folder=work / "reference",
            origin={},
        )
    if not run.sampled or (folder / IMAGES).exists():
        return
    backbone = base_model(settings, settings.sampling.precision)
    users = first_embeddings_of_users(layout)
    sample_images(
        image_requests(_unseen(log, settings), run.method or "base", settings.evaluation),
        backbone,
        settings.sampling,
        folder / IMAGES,
        folder / "images.unfinished",
        adapter=None if run.method is None else load_adapter(folder / ADAPTER, backbone),
        users=_known_to(run.method, users),
        identity="" if run.method is None else adapter_identity(folder / ADAPTER),
    )


def job_result(
    settings: Settings, experiments: ExperimentSettings, layout: Layout, found: Mapping[str, Seen]
) -> dict[str, Any]:
    """Win rates over all trainings and of each, and what every model's images show."""
    planned = plan_comparisons(_unseen(Preferences.open(layout.preferences), settings), settings.evaluation)
    planned = planned[planned.method.isin(["ppd", "dpo"]) & planned.opponent.isin(["base", "dpo", "ppd-shuffled"])]
    tastes, verdicts = Tastes.load(layout.truth), {}
    for seed in experiments.seeds:
        # What dpo gains over the base counts once.
        once = planned if seed == experiments.seeds[0] else planned[planned.method == "ppd"]
        readings = pd.concat([found[name].readings for name in ("base", "dpo", f"ppd-seed-{seed}")])
        verdicts[seed] = judge(once, readings, tastes).assign(training_seed=seed)
    return {
        "anchored": anchored_rates(planned, found, tastes),
        "win_rates": win_rates(
            pd.concat([table.assign(training_seed=seed) for seed, table in verdicts.items()], ignore_index=True)
        ),
        "by_seed": {str(seed): win_rates(table) for seed, table in verdicts.items()},
        "images": {run.name: found[run.name].measures for run in job_runs(settings, experiments)},
    }


def anchored_rates(planned: pd.DataFrame, found: Mapping[str, Seen], tastes: Tastes) -> list[dict[str, Any]]:
    """Win rates of the anchored training, which is one, over the base and over itself for others."""
    planned = planned[(planned.method == "ppd") & planned.opponent.isin(["base", "ppd-shuffled"])]
    return win_rates(judge(planned, pd.concat([found[name].readings for name in ("base", ANCHORED)]), tastes))


def stability_row(run: Run, curve: Path) -> dict[str, Any]:
    """A variant's curve, and where it ends: the last tenth of its steps."""
    loss, trained = run.settings.finetune.loss, pd.read_csv(curve)
    return {
        "beta": loss.beta,
        "winner_anchor": loss.winner_anchor,
        "end": curve_points(trained.tail(-(-len(trained) // 10)), 1)[0],
        "curve": curve_points(trained, CURVE_POINTS),
    }


def curve_points(curve: pd.DataFrame, n: int) -> list[dict[str, float]]:
    """Means over n parts of a curve's steps: how far winner's and loser's errors lie above the base's, and the rest."""
    part = pd.Series(np.arange(len(curve)) * n // len(curve), index=curve.index)
    means = curve.groupby(part)[["step", "error_chosen", "error_rejected", "margin", "accuracy", "grad_norm"]].mean()
    reference = curve.groupby(part)[["reference_chosen", "reference_rejected"]].mean()
    means["winner"] = means.error_chosen / reference.reference_chosen - 1
    means["loser"] = means.error_rejected / reference.reference_rejected - 1
    columns = ["step", "winner", "loser", "margin", "accuracy", "grad_norm"]
    return [{name: float(f"{row[name]:.5g}") for name in columns} for row in means.to_dict("records")]


def pictures(settings: Settings, layout: Layout, work: Path, seed: int) -> bytes:
    """A row a caption, all from one noise: the base's, pooled DPO's, then ppd's for a few people, the same in all."""
    requests = _unseen(Preferences.open(layout.preferences), settings)
    images: dict[tuple[str, str, str, int], Pixels] = {}
    for model, name in (("base", "base"), ("dpo", "dpo"), ("ppd", f"ppd-seed-{seed}")):
        sampled, pixels = read_samples(work / name / IMAGES)
        keys = zip(sampled.user_id, sampled.caption, sampled.seed, strict=True)
        images |= {(model, *key): image for key, image in zip(keys, pixels, strict=True)}
    shown: list[Pixels] = []
    for caption in requests.caption.unique():
        of_caption = requests[requests.caption == caption]
        noise = int(of_caption.seed.iloc[0])
        alike = of_caption[of_caption.seed == noise].user_id[:PEOPLE_SHOWN]
        shown += [images[model, UNCONDITIONAL, caption, noise] for model in ("base", "dpo")]
        shown += [images["ppd", user_id, caption, noise] for user_id in alike]
    return strip(shown, columns=len(shown) // requests.caption.nunique())


def seen_images(runs: Sequence[Run], settings: Settings, layout: Layout, work: Path) -> dict[str, Seen]:
    """What the runs' images show, by the name of the run; realism is nearness to renders by CLIP features."""
    classifier = load_classifier(settings.models.attribute_classifier)
    clip = ClipScorer.from_pretrained(settings.models.clip)
    (real,) = renders(layout.stickers, 1)
    manifold = torch.as_tensor(clip.embed_images(real))
    found = {}
    for run in runs:
        sampled, images = read_samples(work / run.name / IMAGES)
        readings = read_features(run.method or "base", sampled, images, classifier)
        shown, near = float(readings.concept_right.mean()), precision_of(images, clip, manifold)
        found[run.name] = Seen(readings, {"n_images": len(images), "concept_accuracy": shown, "precision": near})
    return found


def _encode(settings: Settings, layout: Layout, work: Path) -> None:
    """Latents and captions as this base reads them."""
    if not (work / LATENTS).exists():
        encode(
            Preferences.open(layout.preferences),
            base_model(settings, "bf16"),
            work / LATENTS,
            work / "latents.unfinished",
            image_px=settings.models.image_px,
            batch_size=settings.models.encode_batch_size,
        )


def _unseen(log: Preferences, settings: Settings) -> pd.DataFrame:
    requests = plan_requests(log, settings.evaluation)
    return requests[requests.users == "unseen"].reset_index(drop=True)


def _known_to(method: Method | None, users: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The embeddings that a method's images are sampled with; a pooled adapter reads any but zero as everybody."""
    if method is None:
        return {}
    return users if method == "ppd" else {UNCONDITIONAL: torch.ones_like(next(iter(users.values())))}
