"""Put preferences, latents and user embeddings together into what training reads."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.errors import InputError
from ppd.preferences.store import Preferences


def training_data(preferences: Preferences, encoded: Encoded, embeddings: Mapping[str, Tensor]) -> TrainingData:
    """Training pairs of the training people, and what is only measured: their held-out pairs, and validation people's.

    embeddings: [groups, rows, dim] for each user_id of the training and validation people. Test people are left out
    altogether: nothing that training prints or keeps depends on them.
    """
    users = preferences.users[preferences.users.split.isin(["train", "validation"])]
    people = sorted(users.user_id)
    missing = [user_id for user_id in people if user_id not in embeddings]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(people)} people have no embedding, such as user {missing[0]}",
            fix="Run `ppd stage embed` for every shard first",
        )
    groups = [embeddings[user_id] for user_id in people]
    split = users.set_index("user_id").split
    pairs = preferences.pairs[preferences.pairs.user_id.isin(people)]
    pairs = pairs.assign(split=pairs.user_id.map(split)).sort_values("pair_id")
    rows = _row_numbers(pairs, people, encoded)
    is_train, is_eval = (pairs.split == "train").to_numpy(), (pairs.role == "eval").to_numpy()
    return TrainingData(
        latents=encoded.latents,
        text=encoded.text,
        embeddings=torch.cat(groups),
        first=torch.tensor([0, *np.cumsum([len(group) for group in groups])]),
        train=rows[torch.from_numpy(is_train & (pairs.role == "train").to_numpy())],
        seen=rows[torch.from_numpy(is_train & is_eval)],
        held_out=rows[torch.from_numpy(~is_train & is_eval)],
        pictures_hash=_hash(pairs, encoded, []),
        content_hash=_hash(pairs, encoded, groups),
        user_ids=tuple(people),
    )


def _row_numbers(pairs: pd.DataFrame, people: list[str], encoded: Encoded) -> Pairs:
    """Every pair as row numbers; those whose images were not encoded (support) get -1 and are never used."""
    user = pd.Series(range(len(people)), index=people)

    def numbers(column: str, index: pd.Series) -> Tensor:
        return torch.tensor(index.reindex(pairs[column]).fillna(-1).to_numpy(dtype=np.int64))

    return Pairs(
        user=numbers("user_id", user),
        caption=numbers("caption", encoded.caption_row),
        chosen=numbers("chosen_uid", encoded.image_row),
        rejected=numbers("rejected_uid", encoded.image_row),
    )


def _hash(pairs: pd.DataFrame, encoded: Encoded, groups: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for column in ("user_id", "caption", "chosen_uid", "rejected_uid", "role"):
        digest.update("\n".join(pairs[column]).encode())
    for group in groups:
        digest.update(group.contiguous().numpy().tobytes())
    digest.update(encoded.source.encode() + "\n".join(encoded.caption_row.index).encode())
    digest.update("\n".join(encoded.image_digest.index).encode() + b"".join(encoded.image_digest))
    return digest.hexdigest()[:16]
