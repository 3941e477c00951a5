"""From raw embeddings to the ones that the adapter reads, and the table of who is embedded how."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from torch import Tensor

from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.stored_tables import read_frame, write_table
from ppd.users.embeddings import UserEmbeddings, each_user
from ppd.users.whitening import EmbeddingRecipe, Whitening, fit_on_users


def fit_whitening(preferences: Preferences, embeddings: UserEmbeddings, settings: EmbeddingSettings) -> Whitening:
    """The whitening of this run, fitted on all support groups of the training users and of nobody else."""
    train = sorted(preferences.users.user_id[preferences.users.split == "train"])
    hidden = [embeddings.hidden[user_id] for user_id in train]
    if settings.directions == "discriminant" and all(len(groups) == 1 for groups in hidden):
        Console(stderr=True).print(
            "No training user has two groups of choices, so nothing tells users from their choices: the whitening "
            "keeps principal directions in place of discriminant ones. More choices a user would change that.",
            soft_wrap=True,
        )
    recipe = EmbeddingRecipe(
        vlm=embeddings.vlm.id,
        revision=embeddings.vlm.revision,
        rows=settings.rows if settings.rows is not None else tuple(range(hidden[0].shape[1])),
        **settings.model_dump(include={"prompt", "read", "max_new_tokens", "precision"}),
    )
    return replace(fit_on_users(hidden, settings), recipe=recipe)


def whitened(files: Iterable[Path], whitening: Whitening) -> dict[str, Tensor]:
    """The user embeddings [groups, rows, components] that the adapter reads, by user_id.

    A tenth and less of what the files hold, which is never in memory as a whole.
    """
    return dict(sorted((user_id, whitening(hidden)) for user_id, hidden, _ in each_user(files)))


def write_manifest(
    preferences: Preferences, embeddings: UserEmbeddings, shard_files: Iterable[Path], file: Path
) -> None:
    """One row a user: user_id, split, shard, n_pairs, n_support_groups, profile of the first group, norm, version.

    version changes exactly when an embedding of the user does.
    """
    keys = pd.concat([read_frame(f, ["user_id", "key"]) for f in shard_files])
    version = keys.groupby("user_id").key.agg(lambda k: hashlib.sha256("".join(sorted(k)).encode()).hexdigest()[:16])
    users = preferences.users[preferences.users.user_id.isin(list(embeddings.hidden))]
    table = users.assign(
        profile=users.user_id.map(lambda user_id: embeddings.profiles[user_id][0]),
        embedding_norm=users.user_id.map(lambda user_id: float(embeddings.hidden[user_id].norm(dim=-1).mean())),
        version=users.user_id.map(version),
    )
    with atomic_path(file) as fresh:
        write_table(table.sort_values("user_id"), fresh)
