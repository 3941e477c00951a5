"""What a trial is trained on: users as a variant describes them, and the part of the log that it may see."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.training.assemble import training_data
from ppd.diffusion.training.dataset import TrainingData
from ppd.layout import Layout
from ppd.preferences.splits import hash_units
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import UserEmbeddings, load_embeddings
from ppd.users.manifest import fit_whitening


@dataclass(frozen=True)
class Material:
    """The log of choices, its latents, and all users' hidden states of all layers, by where they were read."""

    preferences: Preferences
    encoded: Encoded
    layers: Mapping[str, UserEmbeddings]
    """prompt-end, answer-end -> [groups, all rows, dim] of each user."""

    @staticmethod
    def open(layout: Layout) -> "Material":
        files = {read: layout.shared_inputs / f"{read}.parquet" for read in ("prompt-end", "answer-end")}
        hidden = {read: load_embeddings([file]) for read, file in files.items()}
        return Material(Preferences.open(layout.preferences), Encoded.open(layout.latents), hidden)


@dataclass(frozen=True)
class Part:
    """What one variant sees of the material: who and what is trained on, and all users' embeddings."""

    data: TrainingData
    embeddings: Mapping[str, Tensor]
    """[groups, rows, dim] of every user, as the adapter reads them."""


def part_for(material: Material, preferences: Preferences, settings: EmbeddingSettings, *, whitened: bool) -> Part:
    """The training data of a log, all or narrowed; the whitening is fitted on the users that it trains on alone."""
    users = chosen_rows(material.layers[settings.read], settings)
    embeddings = embedded(preferences, users, settings, whitened=whitened)
    return Part(training_data(preferences, material.encoded, embeddings), embeddings)


def chosen_rows(users: UserEmbeddings, settings: EmbeddingSettings) -> UserEmbeddings:
    """All users' hidden states at the layers that the settings name, from those at all layers."""
    if settings.rows is None:
        return users
    rows = list(settings.rows)
    return replace(users, hidden={user_id: hidden[:, rows] for user_id, hidden in users.hidden.items()})


def narrowed(preferences: Preferences, n_users: int | None, pairs_share: float) -> Preferences:
    """The same log with fewer training users, or with fewer of their pairs to train on.

    Both follow hashes, so a smaller part is within every larger one. Nothing else changes.
    """
    users, pairs = preferences.users, preferences.pairs
    train = users.user_id[users.split == "train"].tolist()
    order = dict(zip(train, hash_units(0, "experiment", train), strict=True))
    if n_users is not None:
        gone = set(sorted(train, key=order.__getitem__)[n_users:])
        users, pairs = users[~users.user_id.isin(gone)], pairs[~pairs.user_id.isin(gone)]
    if pairs_share < 1:
        trained = pairs[pairs.role == "train"]
        keys = trained.assign(key=hash_units(0, "experiment", trained.pair_id.astype(str)))
        rank = keys.groupby("user_id").key.rank(pct=True)
        pairs = pairs.drop(index=trained.index[rank > pairs_share])
    return replace(preferences, users=users, pairs=pairs)


def embedded(
    preferences: Preferences, users: UserEmbeddings, settings: EmbeddingSettings, *, whitened: bool
) -> dict[str, Tensor]:
    """All users' embeddings: whitened on the training users, or only scaled to a mean square of 1 over them."""
    if whitened:
        whitening = fit_whitening(preferences, users, settings)
        return {user_id: whitening(hidden) for user_id, hidden in users.hidden.items()}
    train = preferences.users.user_id[preferences.users.split == "train"]
    scale = torch.cat([users.hidden[user_id] for user_id in sorted(train)]).square().mean().rsqrt()
    return {user_id: hidden * scale for user_id, hidden in users.hidden.items()}
