"""The pairs by which models know a user, in groups: what an embedding is made of, and what the judge is shown."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from ppd.preferences.store import Preferences

READ_AT_ONCE = 256


@dataclass(frozen=True)
class Pair:
    """One choice of a person: encoded image files (PNG, JPEG, WebP …) and the caption that both were made for."""

    caption: str
    preferred: bytes
    rejected: bytes


@dataclass(frozen=True)
class SupportGroup:
    """One group of pairs of one user."""

    user_id: str
    support_group: int
    pairs: tuple[Pair, ...]


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


class FirstSupport(Mapping[str, tuple[Pair, ...]]):
    """Each user's first support group: what their embedding is made of, and by what the judge knows them.

    Its images are read when it is asked for; a user without one has no entry.
    """

    def __init__(self, preferences: Preferences, user_ids: Iterable[str]) -> None:
        pairs = preferences.pairs
        first = pairs[(pairs.role == "support") & (pairs.support_group == 0) & pairs.user_id.isin(list(user_ids))]
        self._preferences = preferences
        self._rows = {str(user_id): rows for user_id, rows in first.sort_values("pair_id").groupby("user_id")}

    def __getitem__(self, user_id: str) -> tuple[Pair, ...]:
        (group,) = _groups(self._preferences, self._rows[user_id])
        return group.pairs

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
