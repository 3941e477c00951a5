"""Raw hidden states lie in a narrow cone around a large mean; whitened ones tell users apart."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.settings import Component, PromptVersion, VlmPrecision
from ppd.stored_tensors import load_with_metadata, save_tensors


class EmbeddingRecipe(Component):
    """How the raw embeddings were read that a whitening was fitted on: a new user's must be read alike."""

    vlm: str
    """Where the vision-language model was: a folder or a hub id."""
    revision: str
    """Names the model by content; this is what decides."""
    prompt: PromptVersion
    read: Literal["prompt-end", "answer-end"]
    max_new_tokens: int
    rows: tuple[int, ...]
    precision: VlmPrecision


@dataclass(frozen=True)
class Whitening:
    """u = (h − mean) · matrix, for each row by itself: mean [rows, dim], matrix [rows, dim, components].

    The mean user becomes 0, which is the unconditional embedding.
    """

    mean: Tensor
    matrix: Tensor
    recipe: EmbeddingRecipe | None = None

    @staticmethod
    def fit(
        hidden: Tensor,
        *,
        components: int | None = None,
        shrinkage: float = 0.1,
        recipe: EmbeddingRecipe | None = None,
    ) -> "Whitening":
        """From training users' embeddings [N, rows, dim]: principal directions, each scaled to variance 1.

        The spectrum λ is first drawn towards its mean: (1 − s)·λ + s·mean(λ) (Ledoit & Wolf 2004), so a direction that
        hardly varies stays small. Signs are fixed: the largest entry of a direction is positive.
        """
        n, rows, dim = hidden.shape
        kept = dim if components is None else components
        if not 0 < kept <= dim or n < 2:
            raise InputError(f"whitening {n} embeddings of {dim} dimensions to {kept} components is not possible")
        means, matrices = [], []
        for row in range(rows):  # one at a time: in double precision all of them would be twice what was read
            centred = hidden[:, row].double()
            means.append(centred.mean(dim=0))
            centred -= means[-1]
            spectrum, directions = torch.linalg.eigh(centred.T @ centred / (n - 1))
            spectrum, directions = spectrum.flip(0).clamp_min(0), directions.flip(1)
            spectrum = (1 - shrinkage) * spectrum + shrinkage * spectrum.mean()
            largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
            directions = directions * largest.sign()
            floor = torch.finfo(torch.float32).eps * spectrum.max().clamp_min(1e-12)
            matrices.append((directions / spectrum.clamp_min(floor).sqrt())[:, :kept])
        return Whitening(torch.stack(means).float(), torch.stack(matrices).float(), recipe)

    def __call__(self, hidden: Tensor) -> Tensor:
        """[..., rows, dim] -> [..., rows, components]. Raises InputError for embeddings of another shape."""
        if hidden.shape[-2:] != self.mean.shape:
            raise InputError(
                f"embeddings of (rows, dim) {tuple(hidden.shape[-2:])}; this whitening was fitted on those of "
                f"{tuple(self.mean.shape)}",
                fix="Read them with the model and the rows that it names",
            )
        return torch.einsum("...rd,rdc->...rc", hidden - self.mean, self.matrix)

    @property
    def name(self) -> str:
        """A hash of its numbers, so that an adapter can name the whitening it was trained with."""
        numbers = b"".join(t.contiguous().numpy().tobytes() for t in (self.mean, self.matrix))
        return hashlib.sha256(numbers).hexdigest()[:16]

    def save(self, file: str | Path) -> None:
        """Write it as safetensors."""
        with atomic_path(file) as fresh:
            metadata = {} if self.recipe is None else {"recipe": self.recipe.model_dump_json()}
            save_tensors({"mean": self.mean, "matrix": self.matrix}, fresh, metadata)

    @staticmethod
    def load(file: str | Path) -> "Whitening":
        """Read what `save` wrote; InputError where that is not possible."""
        try:
            tensors, metadata = load_with_metadata(Path(file))
            written = metadata.get("recipe")
            recipe = None if written is None else EmbeddingRecipe.model_validate_json(written)
            return Whitening(tensors["mean"], tensors["matrix"], recipe)
        except (KeyError, ValidationError) as error:
            raise InputError(f"not a whitening: {error}", file=file, fix="Run the stage `users` first") from error
