"""How good the nano models are, on held-out renders and seeds, and the model cards that say so."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from scipy.stats import norm

from ppd.diffusion.model.codec import ImageCodec
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.sampling.sampler import Request, sample
from ppd.pretrain.clip import CAPTIONS
from ppd.pretrain.codec import heldout_psnr_db
from ppd.pretrain.pictures import render_tensor, to_bytes
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import SamplingSettings
from ppd.simulation import seeds
from ppd.simulation.attribute_classifier import AttributeClassifier, embed, read
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import CONCEPTS, FACTOR_SD, FACTORS, STYLES, sample_scenes
from ppd.statistics.precision import in_manifold

Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Measure:
    """One figure: its value over n cases, a 95 % interval, and what is wanted of it."""

    name: str
    value: float
    low: float
    high: float
    n: int
    wanted: str = ""


def share(name: str, hits: NDArray[np.bool_], wanted: str = "") -> Measure:
    """A proportion with its Wilson interval: hits [n]."""
    n, p = len(hits), float(hits.mean())
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * (p * (1 - p) / n + Z95**2 / (4 * n * n)) ** 0.5
    return Measure(name, p, max(0.0, centre - half), min(1.0, centre + half), n, wanted)


def mean(name: str, values: NDArray[np.floating], wanted: str = "") -> Measure:
    """A mean with its normal interval: values [n]."""
    centre, half = float(values.mean()), Z95 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Measure(name, centre, centre - half, centre + half, len(values), wanted)


def prior_quality(
    folder: Path,
    classifier: AttributeClassifier,
    clip: ClipScorer,
    atlas: Atlas,
    sampling: SamplingSettings,
    images_per_caption: int,
) -> tuple[list[Measure], NDArray[np.uint8]]:
    """What the base samples for every caption, as the classifier reads it; and the images [n, 64, 64, 3] by caption.

    Style-neutral means: every style near its share of the world, every factor with mean near 0, both sides drawn, and
    the world's spread (`FACTOR_SD`).
    """
    backbone = load_backbone(folder, precision="bf16")  # as params.yaml samples
    concepts = np.repeat(np.arange(len(CONCEPTS)), images_per_caption)
    requests = [Request(caption, seed) for caption in CAPTIONS for seed in range(images_per_caption)]
    started = time.perf_counter()
    images = np.stack(list(sample(backbone, requests, sampling)))
    seconds = (time.perf_counter() - started) / len(images)
    seen = read(classifier, images)
    measures = [share("concept accuracy", seen.concept.argmax(axis=1) == concepts, ">= .97")]
    style = seen.style.argmax(axis=1)
    measures += [share(f"share of {name}", style == i, "0.25, >= .125") for i, name in enumerate(STYLES)]
    for i, factor in enumerate(FACTORS):
        values = seen.factors[:, i]
        measures.append(mean(f"{factor.name}, mean", values, "0"))
        measures.append(_sd(f"{factor.name}, SD", values, f"{FACTOR_SD:.2f}"))
        measures.append(share(f"{factor.name}, share of {factor.high}", values > 0, "0.5"))
    renders = render(atlas, sample_scenes(seeds.rng("evaluation", "precision"), 2048))
    near = {
        "reader": in_manifold(embed(classifier, images), embed(classifier, renders)),
        "CLIP": in_manifold(torch.as_tensor(clip.embed_images(images)), torch.as_tensor(clip.embed_images(renders))),
    }
    measures += [share(f"precision ({name} features, k = 3)", found.numpy()) for name, found in near.items()]
    codec = ImageCodec.from_pretrained(folder, subfolder="codec").eval()
    measures.append(mean("codec PSNR, dB", heldout_psnr_db(codec, atlas).numpy(), ">= 28"))
    threads = torch.get_num_threads()
    measures.append(Measure(f"s an image, {threads} threads", seconds, seconds, seconds, len(images), "<= .1"))
    return measures, images


def _sd(name: str, values: NDArray[np.floating], wanted: str) -> Measure:
    """A standard deviation with its bootstrap interval: values [n]."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(1000, len(values)))].std(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Measure(name, float(values.std()), float(low), float(high), len(values), wanted)


@torch.inference_mode()
def attribute_classifier_measures(
    classifier: AttributeClassifier, codec: ImageCodec, atlas: Atlas, n: int
) -> list[Measure]:
    """Reading held-out renders as they are, and after a round trip through the codec."""
    scenes = sample_scenes(seeds.rng("evaluation", "reader"), n)
    clean = render_tensor(atlas, scenes)
    coded = torch.cat([codec(part) for part in clean.split(128)])
    measures = []
    for label, images, wanted in (("clean", clean, ">= .98"), ("through the codec", coded, "")):
        seen = read(classifier, to_bytes(images))
        measures.append(share(f"concept accuracy, {label}", seen.concept.argmax(axis=1) == scenes.concept, wanted))
        measures.append(share(f"style accuracy, {label}", seen.style.argmax(axis=1) == scenes.style))
        for factor, found, truth in zip(FACTORS, seen.factors.T, scenes.factors.T, strict=True):
            r2 = float(1 - ((found - truth) ** 2).mean() / truth.var())
            measures.append(Measure(f"{factor.name} R², {label}", r2, r2, r2, n))
            measures.append(share(f"{factor.name} side right, {label}", np.sign(found) == np.sign(truth)))
    return measures


def clip_measures(scorer: ClipScorer, atlas: Atlas, n: int) -> list[Measure]:
    """For `n` held-out renders: does the image's own caption score highest of all 32?"""
    scenes = sample_scenes(seeds.rng("evaluation", "clip"), n)
    scores = scorer.table(render(atlas, scenes), CAPTIONS)
    return [share("right caption first of 32", scores.argmax(axis=1) == scenes.concept)]


HEADER = ("measure", "value", "95 % interval", "n", "wanted")


def _cells(measure: Measure) -> tuple[str, ...]:
    interval = f"{measure.low:.3f} – {measure.high:.3f}" if measure.low != measure.high else ""
    return measure.name, f"{measure.value:.3f}", interval, str(measure.n), measure.wanted


def table(title: str, measures: Iterable[Measure]) -> Table:
    """For the terminal."""
    rich = Table(*HEADER, title=title)
    for measure in measures:
        rich.add_row(*_cells(measure))
    return rich


def as_markdown(measures: Iterable[Measure]) -> str:
    """For a model card."""
    head, *rows = (f"| {' | '.join(row)} |" for row in (HEADER, *map(_cells, measures)))
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def contact_sheet(images: NDArray[np.uint8], columns: int, scale: int = 2) -> Image.Image:
    """Images [n, h, w, 3] in rows of `columns`, pixels `scale` times as large; a last row that is not full is cut."""
    n_rows = len(images) // columns
    height, width = images.shape[1:3]
    grid = images[: n_rows * columns].reshape(n_rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    sheet = Image.fromarray(grid.reshape(n_rows * height, columns * width, 3))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
