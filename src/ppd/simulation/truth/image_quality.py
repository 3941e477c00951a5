"""Do the sampled images show what was asked, and are they still pictures of this world? Whoever judges them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.evaluation.tables import Images, Pixels
from ppd.rewards.clip_score import ClipScorer
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import STYLES, sample_scenes
from ppd.statistics.bootstrap import clustered_mean
from ppd.statistics.precision import precision

N_REAL = 2000


def concept_accuracy(readings: pd.DataFrame) -> dict[str, float]:
    """Share of images that show their caption's concept, by model, with its interval over captions."""
    metrics: dict[str, float] = {}
    for model, table in readings.groupby(level="model", sort=False):
        captions = table.index.get_level_values("caption").to_numpy()
        share = clustered_mean(table.concept_right.to_numpy(dtype=float), captions)
        metrics |= share.as_metrics(f"concept_accuracy.{model}")
    return metrics


def style_shares(readings: pd.DataFrame) -> dict[str, float]:
    """How often each model's images have each style; the world has a quarter of each."""
    metrics: dict[str, float] = {}
    for model, table in readings.groupby(level="model", sort=False):
        shares = np.bincount(table["style"], minlength=len(STYLES)) / len(table)
        metrics |= {f"style_share.{model}.{style}": float(share) for style, share in zip(STYLES, shares, strict=True)}
    return metrics


def renders(stickers: Path, n_sets: int) -> list[Pixels]:
    """Sets of `N_REAL` fresh renders each: what images of this world look like."""
    rng, atlas = seeds.rng("evaluation", "precision"), Atlas.load(stickers)
    return [render(atlas, sample_scenes(rng, N_REAL)) for _ in range(n_sets)]


def precision_of(images: Images, clip: ClipScorer, manifold: Tensor) -> float:
    """Share of images within the manifold of real ones, CLIP features [M, D] (`ppd.statistics.precision`)."""
    return precision(torch.as_tensor(clip.embed_images(images)), manifold)


def image_precision(images: Mapping[str, Images], clip: ClipScorer, stickers: Path) -> dict[str, float]:
    """Precision of each model's images; "renders" is that of other renders: what a perfect model would get."""
    real, other = renders(stickers, 2)
    manifold = torch.as_tensor(clip.embed_images(real))
    groups: dict[str, Images] = {"renders": other, **images}
    return {f"precision.{model}": precision_of(pixels, clip, manifold) for model, pixels in groups.items()}
