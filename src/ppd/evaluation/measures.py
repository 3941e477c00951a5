"""Numbers about the images, whoever judges them: do they show what was asked, and are they still pictures?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ppd.rewards.clip_score import ClipScorer
from ppd.rewards.scorer import Scorer
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import STYLES, sample_scenes
from ppd.statistics.bootstrap import clustered_mean
from ppd.statistics.precision import precision

Pixels = NDArray[np.uint8]
N_REAL = 2000


def concept_accuracy(readings: pd.DataFrame) -> dict[str, float]:
    """Share of images in which the reader sees the caption's concept, by model, with its interval over captions."""
    metrics: dict[str, float] = {}
    for model, table in readings.groupby(level="model", sort=False):
        captions = table.index.get_level_values("caption").to_numpy()
        share = clustered_mean(table.concept_right.to_numpy(dtype=float), captions)
        metrics[f"concept_accuracy.{model}"] = share.mean
        metrics[f"concept_accuracy.{model}.ci_low"] = share.low
        metrics[f"concept_accuracy.{model}.ci_high"] = share.high
    return metrics


def style_shares(readings: pd.DataFrame) -> dict[str, float]:
    """How often each model draws each style; the world has a quarter of each."""
    metrics: dict[str, float] = {}
    for model, table in readings.groupby(level="model", sort=False):
        shares = np.bincount(table["style"], minlength=len(STYLES)) / len(table)
        metrics |= {f"style_share.{model}.{style}": float(share) for style, share in zip(STYLES, shares, strict=True)}
    return metrics


def mean_rewards(drawn: Mapping[str, tuple[pd.DataFrame, Pixels]], scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """Each scorer's mean over each model's images, with its interval over captions."""
    metrics: dict[str, float] = {}
    for reward, score in scorers.items():
        for model, (wishes, images) in drawn.items():
            captions = wishes.caption.tolist()
            mean = clustered_mean(score(images, captions), np.asarray(captions))
            metrics[f"reward.{reward}.{model}"] = mean.mean
            metrics[f"reward.{reward}.{model}.ci_low"] = mean.low
            metrics[f"reward.{reward}.{model}.ci_high"] = mean.high
    return metrics


def image_precision(images: Mapping[str, Pixels], clip: ClipScorer, atlas: Atlas) -> dict[str, float]:
    """Share of each model's images within the manifold of fresh renders, in CLIP's space (`ppd.statistics.precision`).

    "renders" is the same for other renders: what a perfect model would get.
    """
    rng = seeds.rng("evaluation", "precision")
    real, other = (render(atlas, sample_scenes(rng, N_REAL)) for _ in range(2))
    manifold = clip.embed_images(real)
    groups: dict[str, Pixels] = {"renders": other, **images}
    return {
        f"precision.{model}": precision(torch.as_tensor(clip.embed_images(drawn)), manifold)
        for model, drawn in groups.items()
    }
