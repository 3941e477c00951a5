"""Raw hidden states lie in a narrow cone around a large mean; whitened ones tell users apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.settings import Component, EmbeddingSettings, PromptVersion, VlmPrecision
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
        users: Tensor | None = None,
        *,
        components: int | None = None,
        shrinkage: float = 0.1,
    ) -> "Whitening":
        """From training users' embeddings [N, rows, dim]: some directions, each scaled to variance 1.

        users: whose each embedding is, int64 [N]; some users have two. With it the first directions are those in which
        a user's embeddings agree and users differ (linear discriminant analysis, Fisher 1936): what of a whitened
        embedding's variance lies between users is turned onto as few directions as hold it. Without it the first are
        the principal ones, in which embeddings differ most, whether it is the user or the choices that differ.

        The spectrum λ is first drawn towards its mean: (1 − s)·λ + s·mean(λ) (Ledoit & Wolf 2004), so a direction that
        hardly varies stays small. Signs are fixed: the largest entry of a direction is positive.
        """
        n, rows, dim = hidden.shape
        kept = dim if components is None else components
        if not 0 < kept <= dim:
            raise InputError(
                f"embedding.components is {kept}; embeddings of {dim} numbers have 1 to {dim} directions",
                fix="Lower it, or set it to null for all",
            )
        if n < 2:
            raise InputError(
                f"{n} of the training users' embeddings; at least 2 are needed to see in what people differ",
                fix="Add users, or lower preferences.pairs_per_group",
            )
        means, matrices = [], []
        for row in range(rows):  # one at a time: in double precision all of them would be twice what was read
            centred = hidden[:, row].double()
            means.append(centred.mean(dim=0))
            centred -= means[-1]
            spectrum, directions = torch.linalg.eigh(centred.T @ centred / (n - 1))
            spectrum, directions = spectrum.flip(0).clamp_min(0), directions.flip(1)
            spectrum = (1 - shrinkage) * spectrum + shrinkage * spectrum.mean()
            floor = torch.finfo(torch.float32).eps * spectrum.max().clamp_min(1e-12)
            matrix = directions / spectrum.clamp_min(floor).sqrt()
            if users is not None:
                matrix = matrix @ _users_first(centred @ matrix, users)
            largest = matrix.gather(0, matrix.abs().argmax(dim=0, keepdim=True))
            matrices.append((matrix * largest.sign())[:, :kept])
        return Whitening(torch.stack(means).float(), torch.stack(matrices).float())

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


def fit_on_users(hidden: Sequence[Tensor], settings: EmbeddingSettings) -> Whitening:
    """The whitening that the settings name, from users' embeddings, [groups, rows, dim] of each.

    Where no user has two groups nothing tells a user from the choices: then the directions are principal ones.
    """
    n_groups = torch.tensor([*map(len, hidden)])
    can_tell = settings.directions == "discriminant" and bool((n_groups > 1).any())
    users = torch.arange(len(hidden)).repeat_interleave(n_groups) if can_tell else None
    return Whitening.fit(torch.cat([*hidden]), users, components=settings.components, shrinkage=settings.shrinkage)


def _users_first(whitened: Tensor, users: Tensor) -> Tensor:
    """The rotation [dim, dim] that brings what is between users to the front: whitened [N, dim], users [N]."""
    _, own, n_own = users.unique(return_inverse=True, return_counts=True)
    centres = whitened.new_zeros(len(n_own), whitened.shape[1]).index_add_(0, own, whitened) / n_own.unsqueeze(1)
    within = whitened - centres[own]
    # What is left of the variance when the groups of one user are taken off; its eigenvalues would be reliabilities.
    between = whitened.T @ whitened / (len(users) - 1) - within.T @ within / (len(users) - len(n_own))
    return torch.linalg.eigh(between).eigenvectors.flip(1)
