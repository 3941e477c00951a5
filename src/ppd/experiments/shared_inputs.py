"""What many trials share, made once: people at every layer, the base's pictures, and what real renders look like."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.diffusion.sampling.store import draw
from ppd.evaluation.measures import N_REAL
from ppd.evaluation.plan import image_requests
from ppd.experiments.models import base_model, embedding_model
from ppd.experiments.plan import requests_of, sampling_of
from ppd.experiments.settings import ExperimentSettings
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import sample_scenes
from ppd.users.support import support_groups
from ppd.vlm.refresh import refresh

BASE, MANIFOLD = "base.parquet", "manifold.safetensors"


def lay(settings: Settings, experiments: ExperimentSettings, preferences: Path, atlas: Path, out_dir: Path) -> None:
    """Leave in `out_dir`: prompt-end.parquet and answer-end.parquet (all layers), base.parquet, manifold.safetensors.

    base: the base's pictures for the trials' captions and seeds, drawn as trials draw. manifold: the CLIP features of
    fresh renders, for precision.
    """
    log = Preferences.open(preferences)
    vlm = embedding_model(settings)
    work = out_dir.parent / f".{out_dir.name}.unfinished"
    for read in ("prompt-end", "answer-end"):
        every_layer = settings.embedding.model_copy(update={"rows": None, "read": read})
        refresh(work / f"{read}.parquet", support_groups(log, log.users.user_id), vlm, every_layer)
    requests, plan = requests_of(log, "validation", settings.evaluation, experiments.trial)
    backbone = base_model(settings, settings.sampling.precision)
    draw(
        image_requests(requests, "base", plan), backbone, sampling_of(settings.sampling, experiments.trial), work / BASE
    )
    clip = ClipScorer.from_pretrained(settings.models.clip)
    real = render(Atlas.load(atlas), sample_scenes(seeds.rng("evaluation", "precision"), N_REAL))
    with atomic_path(work / MANIFOLD) as fresh:
        save_file({"features": torch.as_tensor(clip.embed_images(real)).contiguous()}, fresh)
    with atomic_path(out_dir) as fresh:
        shutil.copytree(work, fresh)
    shutil.rmtree(work)


def manifold(folder: Path) -> Tensor:
    """The CLIP features [M, D] of fresh renders."""
    return load_file(folder / MANIFOLD)["features"]
