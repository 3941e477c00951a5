"""What many trials share, made once: users at every layer, the base's pictures, and what real renders look like."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.diffusion.sampling.run import sample_images
from ppd.evaluation.plan import image_requests
from ppd.experiments.models import base_model, embedding_model
from ppd.experiments.plan import requests_of, sampling_of
from ppd.experiments.settings import ExperimentSettings
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation.truth.image_quality import renders
from ppd.users.support import support_groups
from ppd.vlm.refresh import refresh

BASE, MANIFOLD = "base.parquet", "manifold.safetensors"


def prepare_shared_inputs(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Leave in the folder of shared inputs: prompt-end and answer-end.parquet (all layers), base.parquet, manifold.

    base: the base's images for the trials' captions and seeds, sampled as trials sample. manifold: the CLIP features of
    fresh renders, for precision.
    """
    log = Preferences.open(layout.preferences)
    vlm = embedding_model(settings)
    unfinished = layout.experiment_work / "shared-inputs"
    work = work_folder(unfinished, [settings.embedding, experiments.trial], [layout.preferences / "pairs.parquet"])
    for read in ("prompt-end", "answer-end"):
        every_layer = settings.embedding.model_copy(update={"rows": None, "read": read})
        refresh(
            work / f"{read}.parquet",
            support_groups(log, log.users.user_id),
            vlm,
            every_layer,
            work / f"{read}.unfinished",
        )
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    backbone = base_model(settings, settings.sampling.precision)
    sample_images(
        image_requests(requests, "base", plan),
        backbone,
        sampling_of(settings.sampling, experiments.trial),
        work / BASE,
        work / "base.unfinished",
    )
    clip = ClipScorer.from_pretrained(settings.models.clip)
    (real,) = renders(layout.stickers, 1)
    with atomic_path(work / MANIFOLD) as fresh:
        save_file({"features": torch.as_tensor(clip.embed_images(real)).contiguous()}, fresh)
    with atomic_path(layout.shared_inputs) as fresh:
        shutil.copytree(work, fresh)
    shutil.rmtree(unfinished)


def manifold(folder: Path) -> Tensor:
    """The CLIP features [M, D] of fresh renders."""
    return load_file(folder / MANIFOLD)["features"]
