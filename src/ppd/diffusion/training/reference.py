"""The frozen base's errors: one number an image and draw, computed once and shared by runs that use the same draws."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import TrainingData, steps_per_cycle
from ppd.errors import DamagedFile
from ppd.files import atomic_path
from ppd.settings import FinetuneSettings
from ppd.stored_tensors import load_tensors, save_tensors


class ReferenceErrors:
    """e_ref of winner and loser for each place in a run's cycle of batches: [steps_per_cycle, pairs_per_step, 2].

    Kept in memory and, given a folder, on disk under a name made of all that the numbers depend on: weights, pairs and
    images, seed, batches, noise levels, precision. So other embeddings, another method, β or learning rate with the
    same draws pay for no reference forward. A place is NaN until it has been computed.
    """

    def __init__(
        self, backbone: Backbone, data: TrainingData, settings: FinetuneSettings, folder: Path | None, rank: int = 0
    ) -> None:
        self._cycle = steps_per_cycle(len(data.train), settings)
        depends_on = settings.model_dump(include={"seed", "pairs_per_step", "timesteps", "precision", "fresh_epochs"})
        key = json.dumps(
            [backbone.fingerprint, backbone.process.name, data.pictures_hash, depends_on, rank], sort_keys=True
        )
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self._path = None if folder is None else folder / f"reference-{name}.safetensors"
        self._computed: list[tuple[int, slice, Tensor]] = []
        known = self._read(torch.empty(0, settings.pairs_per_step, 2))
        # A longer run's errors stay, so that a short one does not make it compute them again.
        self._errors = torch.full((max(self._cycle, len(known)), settings.pairs_per_step, 2), torch.nan)
        self._errors[: len(known)] = known

    def _read(self, nothing: Tensor) -> Tensor:
        """What other runs left; nothing, which is computed again, where that is damaged."""
        if self._path is None or not self._path.exists():
            return nothing
        try:
            return load_tensors(self._path)["errors"]
        except DamagedFile as error:
            Console(stderr=True).print(f"{error}\nThe base's errors are computed again.", soft_wrap=True, markup=False)
            return nothing

    def get(self, step: int, rows: slice) -> Tensor | None:
        """[B, 2] errors of winners and losers, or None where they are not known yet."""
        errors = self._errors[step % self._cycle, rows]
        return None if np.isnan(errors.numpy()).any() else errors

    def put(self, step: int, rows: slice, errors: Tensor) -> None:
        """Take [B, 2] errors; they stay on their device, and are not known yet, until `collect`."""
        self._computed.append((step % self._cycle, rows, errors.float()))

    def collect(self) -> None:
        """Fetch what was put, all at once."""
        if self._computed:
            fetched = torch.cat([errors for _, _, errors in self._computed]).cpu()
            for place, rows, errors in self._computed:
                self._errors[place, rows], fetched = fetched[: len(errors)], fetched[len(errors) :]
            self._computed.clear()

    def forget(self) -> None:
        """Drop what was put since the last `collect`."""
        self._computed.clear()

    def save(self) -> None:
        """Write what is known, for the next run."""
        self.collect()
        if self._path is not None:
            with atomic_path(self._path) as fresh:
                save_tensors({"errors": self._errors}, fresh)
