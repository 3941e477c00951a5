"""What many trials share, made once: users at every layer, the base's images, and what real renders look like."""

import shutil
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.diffusion.sampling.run import sample_images
from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.plan import image_requests
from ppd.evaluation.tables import Pixels
from ppd.experiments.models import base_model, embedding_model
from ppd.experiments.plan import SPLITS, pool_requests, requests_of, sampling_of
from ppd.experiments.settings import ExperimentSettings
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.resumable import resumable
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.truth.image_quality import renders
from ppd.simulation.truth.judge import load_classifier
from ppd.simulation.truth.readings import read_features
from ppd.statistics.precision import in_manifold
from ppd.users.support import support_groups
from ppd.vlm.refresh import refresh

BASE, MANIFOLD = "base.parquet", "manifold.safetensors"
POOL = "pool.parquet"


def prepare_shared_inputs(settings: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Leave in the folder of shared inputs: prompt-end and answer-end.parquet (all layers), base, pool, manifold.

    base: the base's images for the trials' captions and seeds, sampled as trials sample. pool: many more, sampled as
    the pipeline samples, of all held-out captions. manifold: the CLIP features of fresh renders, for precision.
    """
    log = Preferences.open(layout.preferences)
    vlm = embedding_model(settings)
    described, inputs = [settings.embedding, experiments.trial], [layout.preferences / "pairs.parquet"]
    with resumable(layout.experiment_work / "shared-inputs", described, inputs) as work:
        for read in ("prompt-end", "answer-end"):
            every_layer = settings.embedding.model_copy(update={"rows": None, "read": read})
            groups = support_groups(log, log.users.user_id)
            refresh(work / f"{read}.parquet", groups, vlm, every_layer, work / f"{read}.unfinished")
        planned = [requests_of(log, split, settings.evaluation, experiments.trial) for split in SPLITS]
        requests = pd.concat([image_requests(requests, "base", plan) for requests, plan in planned], ignore_index=True)
        requests, sampling = requests.drop_duplicates(), sampling_of(settings.sampling, experiments.trial)
        backbone = base_model(settings, settings.sampling.precision)
        sample_images(requests, backbone, sampling, work / BASE, work / "base.unfinished")
        pool = pool_requests(log, settings.evaluation, experiments.best_of_n.pool)
        sample_images(pool, backbone, settings.sampling, work / POOL, work / "pool.unfinished")
        clip = ClipScorer.from_pretrained(settings.models.clip)
        (real,) = renders(layout.stickers, 1)
        with atomic_path(work / MANIFOLD) as fresh:
            save_file({"features": torch.as_tensor(clip.embed_images(real)).contiguous()}, fresh)
        with atomic_path(layout.shared_inputs) as fresh:
            shutil.copytree(work, fresh)


def base_samples(layout: Layout, file: str, requests: pd.DataFrame) -> tuple[pd.DataFrame, Pixels]:
    """The base's images in `BASE` or `POOL` for the captions of these requests, as `read_samples` gives them."""
    sampled, images = read_samples(layout.shared_inputs / file)
    asked = sampled.caption.isin(requests.caption.unique()).to_numpy()
    return sampled[asked].reset_index(drop=True), images[asked]


@dataclass(frozen=True)
class ImageMeasures:
    """What sampled images show, and whether they still look like renders, known by their CLIP features [M, D]."""

    classifier: AttributeClassifier
    clip: ClipScorer
    renders: Tensor

    @staticmethod
    def load(settings: Settings, layout: Layout) -> "ImageMeasures":
        return ImageMeasures(
            load_classifier(settings.models.attribute_classifier),
            ClipScorer.from_pretrained(settings.models.clip),
            load_file(layout.shared_inputs / MANIFOLD)["features"],
        )

    def __call__(self, model: str, sampled: pd.DataFrame, images: Pixels) -> tuple[pd.DataFrame, dict[str, float]]:
        """The readings of a file of samples, and over all its images: concept_accuracy, precision."""
        readings = read_features(model, sampled, images, self.classifier)
        return readings, {"concept_accuracy": float(readings.concept_right.mean()), "precision": self.precision(images)}

    def table(self, model: str, sampled: pd.DataFrame, images: Pixels) -> pd.DataFrame:
        """The readings, with in_manifold: what both measures are the means of."""
        readings = read_features(model, sampled, images, self.classifier)
        return readings.assign(in_manifold=self.in_manifold(images))

    def precision(self, images: Pixels) -> float:
        return float(self.in_manifold(images).mean())

    def in_manifold(self, images: Pixels) -> NDArray[np.bool_]:
        """Whether each image is where real renders are: [N] (`ppd.statistics.precision`)."""
        features = torch.as_tensor(self.clip.embed_images(images))
        return np.asarray(in_manifold(features, self.renders).numpy())
