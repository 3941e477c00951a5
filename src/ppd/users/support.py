"""From the preferences to the people that are embedded, and the table of who is embedded how."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import People, SupportGroup
from ppd.users.whitening import Whitening
from ppd.vlm.conversation import Pair

READ_AT_ONCE = 256


def support_groups(preferences: Preferences, user_ids: Iterable[str]) -> Iterator[SupportGroup]:
    """The support groups of these users in order of (user, group), their images read as they are asked for."""
    pairs = preferences.pairs[(preferences.pairs.role == "support") & preferences.pairs.user_id.isin(list(user_ids))]
    yield from _groups(preferences, pairs.sort_values(["user_id", "support_group", "pair_id"]))


def shard_groups(preferences: Preferences, shard: str) -> Iterator[SupportGroup]:
    """The same for the users of one shard, from that shard's file: what no other user can change."""
    yield from _groups(preferences, preferences.support(shard))


def n_shard_groups(preferences: Preferences, shard: str) -> int:
    """How many `shard_groups` gives."""
    return int(preferences.support(shard).groupby(["user_id", "support_group"]).ngroups)


def _groups(preferences: Preferences, ordered: pd.DataFrame) -> Iterator[SupportGroup]:
    groups = iter(ordered.groupby(["user_id", "support_group"], sort=False))
    while some := list(islice(groups, READ_AT_ONCE)):
        uids = sorted({uid for _, rows in some for uid in (*rows.chosen_uid, *rows.rejected_uid)})
        images = dict(zip(uids, preferences.image_bytes(uids), strict=True))
        for _, rows in some:
            told = zip(rows.caption, rows.chosen_uid, rows.rejected_uid, strict=True)
            user_id, group = str(rows.user_id.iloc[0]), int(rows.support_group.iloc[0])
            yield SupportGroup(user_id, group, tuple(Pair(c, images[a], images[b]) for c, a, b in told))


def fit_whitening(preferences: Preferences, people: People, settings: EmbeddingSettings) -> Whitening:
    """The whitening of this run, fitted on all support groups of the training people and of nobody else."""
    train = preferences.users.user_id[preferences.users.split == "train"]
    hidden = torch.cat([people.hidden[user_id] for user_id in sorted(train)])
    return Whitening.fit(hidden, components=settings.components, shrinkage=settings.shrinkage)


def whitened(people: People, whitening: Whitening) -> dict[str, Tensor]:
    """The user embeddings [groups, rows, components] that the adapter reads, by user_id."""
    return {user_id: whitening(hidden) for user_id, hidden in people.hidden.items()}


def write_manifest(preferences: Preferences, people: People, shard_files: Iterable[Path], file: Path) -> None:
    """One row a user: user_id, split, shard, n_pairs, n_support_groups, profile of the first group, norm, version.

    version changes exactly when an embedding of the user does.
    """
    keys = pd.concat([pq.read_table(f, columns=["user_id", "key"]).to_pandas() for f in shard_files])
    version = keys.groupby("user_id").key.agg(lambda k: hashlib.sha256("".join(sorted(k)).encode()).hexdigest()[:16])
    users = preferences.users[preferences.users.user_id.isin(list(people.hidden))]
    table = users.assign(
        profile=users.user_id.map(lambda user_id: people.profiles[user_id][0]),
        embedding_norm=users.user_id.map(lambda user_id: float(people.hidden[user_id].norm(dim=-1).mean())),
        version=users.user_id.map(version),
    )
    with atomic_path(file) as fresh:
        table.sort_values("user_id").to_parquet(fresh, index=False)
