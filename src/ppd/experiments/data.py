"""What a trial is trained on: people as a variant describes them, and the part of the log that it may see."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData
from ppd.experiments.settings import Variant
from ppd.preferences.splits import hash_units
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import UserEmbeddings, load_embeddings
from ppd.users.manifest import fit_whitening


@dataclass(frozen=True)
class Material:
    """The log of choices, its latents, and everybody's hidden states of all layers, by where they were read."""

    preferences: Preferences
    encoded: Encoded
    layers: Mapping[str, UserEmbeddings]
    """prompt-end, answer-end -> [groups, all rows, dim] of each person."""

    @staticmethod
    def open(preferences: Path, latents: Path, layers: Path) -> "Material":
        """layers: the folder that `ppd.experiments.shared_inputs` wrote."""
        files = {read: layers / f"{read}.parquet" for read in ("prompt-end", "answer-end")}
        return Material(
            Preferences.open(preferences),
            Encoded.open(latents),
            {read: load_embeddings([file]) for read, file in files.items()},
        )


@dataclass(frozen=True)
class Part:
    """What one variant sees of the material: who and what is trained on, and everybody's embeddings."""

    data: TrainingData
    embeddings: Mapping[str, Tensor]
    """[groups, rows, dim] of everybody, as the adapter reads them."""


def part_for(material: Material, variant: Variant, settings: EmbeddingSettings) -> Part:
    """The training data of `variant`; its whitening is fitted on the people that it trains on and on nobody else."""
    preferences = narrowed(material.preferences, variant.n_users, variant.pairs_share)
    people = _rows(material.layers[settings.read], settings.rows)
    embeddings = embedded(preferences, people, settings, whitened=variant.whitened)
    return Part(training_data(preferences, material.encoded, embeddings), embeddings)


def narrowed(preferences: Preferences, n_users: int | None, pairs_share: float) -> Preferences:
    """The same log with fewer training people, or with fewer of their pairs to train on.

    Both follow hashes, so a smaller part lies within every larger one. Nothing else changes.
    """
    users, pairs = preferences.users, preferences.pairs
    train = users.user_id[users.split == "train"].tolist()
    order = dict(zip(train, hash_units(0, "experiment", train), strict=True))
    if n_users is not None:
        gone = set(sorted(train, key=order.__getitem__)[n_users:])
        users, pairs = users[~users.user_id.isin(gone)], pairs[~pairs.user_id.isin(gone)]
    if pairs_share < 1:
        trained = pairs[pairs.role == "train"]
        rank = (
            trained.assign(key=hash_units(0, "experiment", trained.pair_id.astype(str)))
            .groupby("user_id")
            .key.rank(pct=True)
        )
        pairs = pairs.drop(index=trained.index[rank > pairs_share])
    return replace(preferences, users=users, pairs=pairs)


def embedded(
    preferences: Preferences, people: UserEmbeddings, settings: EmbeddingSettings, *, whitened: bool
) -> dict[str, Tensor]:
    """Everybody's embeddings: whitened on the training people, or only scaled to a mean square of 1 over them."""
    if whitened:
        whitening = fit_whitening(preferences, people, settings)
        return {user_id: whitening(hidden) for user_id, hidden in people.hidden.items()}
    train = preferences.users.user_id[preferences.users.split == "train"]
    scale = torch.cat([people.hidden[user_id] for user_id in sorted(train)]).square().mean().rsqrt()
    return {user_id: hidden * scale for user_id, hidden in people.hidden.items()}


def _rows(people: UserEmbeddings, rows: tuple[int, ...] | None) -> UserEmbeddings:
    if rows is None:
        return people
    kept = {user_id: hidden[:, list(rows)] for user_id, hidden in people.hidden.items()}
    return UserEmbeddings(kept, people.profiles, people.vlm)
