"""Looking for leaks in what `ingest` wrote, by other means than those that are to prevent them."""

from pathlib import Path

import pandas as pd

from ppd.preferences.splits import EVAL, ROLES, SUPPORT, TRAIN, normalise_caption
from ppd.preferences.store import Preferences


def check_leakage(folder: Path) -> list[str]:
    """What is wrong with the splits in `folder`, one sentence each; empty when nothing is.

    Looks at the tables alone, none of the hashes: who and what is held out must be apart whichever way it was drawn.
    Raises `InputError` when `folder` holds no preferences.
    """
    preferences = Preferences.open(folder)
    return find_leaks(preferences.pairs, preferences.users, preferences.captions)


def find_leaks(pairs: pd.DataFrame, users: pd.DataFrame, captions: pd.DataFrame) -> list[str]:
    """`check_leakage` for tables in memory (`ppd.preferences.splits.Splits`)."""
    uses = pd.concat(
        [
            pairs[["user_id", "role", "support_group"]].assign(image_uid=pairs[column])
            for column in ("chosen_uid", "rejected_uid")
        ]
    )
    support = uses[uses["role"] == SUPPORT]
    group_sizes = pairs[pairs["role"] == SUPPORT].groupby(["user_id", "support_group"]).size()
    seen = set(users.loc[users["split"] == "train", "user_id"])
    keys = pairs["caption"].map({caption: normalise_caption(caption) for caption in pairs["caption"].unique()})
    eval_keys, used_keys = set(keys[pairs["role"] == EVAL]), set(keys[pairs["role"].isin([SUPPORT, TRAIN])])
    split_of_key = captions.groupby(captions["caption"].map(normalise_caption))["split"].nunique()

    def also_in(role: str) -> int:
        elsewhere = uses[uses["role"] == role].drop_duplicates(["user_id", "image_uid"])
        return len(support.merge(elsewhere, on=["user_id", "image_uid"]))

    found = {
        "users are in more than one split": int(users["user_id"].duplicated().sum()),
        "pairs belong to no known user": int((~pairs["user_id"].isin(users["user_id"])).sum()),
        "pairs have an unknown role": int((~pairs["role"].isin(ROLES)).sum()),
        "pairs of unseen users are trained on": int(((pairs["role"] == TRAIN) & ~pairs["user_id"].isin(seen)).sum()),
        "captions are both in training or support and in evaluation": len(eval_keys & used_keys),
        "captions are in more than one split": int((split_of_key > 1).sum()),
        "support images are in the same user's training": also_in(TRAIN),
        "support images are in the same user's evaluation": also_in(EVAL),
        "support images are twice in the same user's support": int(support.duplicated(["user_id", "image_uid"]).sum()),
        "support groups differ in size from the others": int((group_sizes != group_sizes.max()).sum()),
        "pairs have a support group but another role": int(
            ((pairs["support_group"] >= 0) != (pairs["role"] == SUPPORT)).sum()
        ),
    }
    return [f"{n} {what}" for what, n in found.items() if n > 0]
