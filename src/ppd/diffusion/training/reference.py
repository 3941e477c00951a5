"""The frozen base's errors: one number an image and draw, computed once and shared by runs that use the same draws."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import TrainingData, steps_per_cycle
from ppd.files import atomic_path
from ppd.settings import FinetuneSettings


class ReferenceErrors:
    """e_ref of winner and loser for each place in a run's cycle of batches: [steps_per_cycle, pairs_per_step, 2].

    Kept in memory and, given a folder, on disk under a name made of all that the numbers depend on: weights, data,
    seed, batches, noise levels, precision. So another method, β or learning rate with the same draws pays for no
    reference forward. A place is NaN until it has been computed.
    """

    def __init__(
        self, backbone: Backbone, data: TrainingData, settings: FinetuneSettings, folder: Path | None, rank: int = 0
    ) -> None:
        self._cycle = steps_per_cycle(len(data.train), settings)
        depends_on = settings.model_dump(include={"seed", "pairs_per_step", "timesteps", "precision", "fresh_epochs"})
        key = json.dumps([backbone.fingerprint, data.content_hash, depends_on, rank], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self._path = None if folder is None else folder / f"reference-{name}.safetensors"
        known = torch.empty(0, settings.pairs_per_step, 2)
        if self._path is not None and self._path.exists():
            known = load_file(self._path)["errors"]
        # A longer run's errors stay, so that a short one does not make it compute them again.
        self._errors = torch.full((max(self._cycle, len(known)), settings.pairs_per_step, 2), torch.nan)
        self._errors[: len(known)] = known

    def get(self, step: int, rows: slice) -> Tensor | None:
        """[B, 2] errors of winners and losers, or None where they are not known yet."""
        errors = self._errors[step % self._cycle, rows]
        return None if errors.isnan().any() else errors

    def put(self, step: int, rows: slice, errors: Tensor) -> None:
        self._errors[step % self._cycle, rows] = errors.float().cpu()

    def save(self) -> None:
        """Write what is known, for the next run."""
        if self._path is not None:
            with atomic_path(self._path) as fresh:
                save_file({"errors": self._errors}, fresh)
