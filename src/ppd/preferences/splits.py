"""Who and what is held out. Everything follows from hashes, so nothing moves when people are added to the log.

Only a log so small that the shares leave a split with nobody, or no caption to evaluate with, moves what lies at the
edge; from the size on at which the shares suffice, it stays where its hash puts it.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ppd.settings import PreferenceSettings

SUPPORT, TRAIN, EVAL, UNUSED = ROLES = ("support", "train", "eval", "unused")
"""What a pair is for: to describe its user; to train on; to evaluate with; nothing, because it would leak."""


USERS_A_SPLIT = 2


class Splits(NamedTuple):
    """The pairs that stay (in their order, with `role` and `support_group`), their users, their captions."""

    pairs: pd.DataFrame
    users: pd.DataFrame
    captions: pd.DataFrame


def normalise_caption(caption: str) -> str:
    """What counts as the same caption: compatibility forms, case and white space make no difference."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).casefold())
    return " ".join(folded.split())


def hash_keys(seed: int, kind: str, texts: Iterable[str]) -> np.ndarray:
    """64 bits of md5 for each text: uint64 [N], the same on every machine. `kind` keeps draws for two ends apart."""
    salt = hashlib.md5(f"{seed}\0{kind}\0".encode(), usedforsecurity=False)

    def key(text: str) -> bytes:
        hasher = salt.copy()
        hasher.update(text.encode())
        return hasher.digest()[:8]

    return np.frombuffer(b"".join(key(text) for text in texts), dtype=">u8").astype(np.uint64)


def hash_units(seed: int, kind: str, texts: Iterable[str]) -> np.ndarray:
    """Uniform numbers in [0, 1) made of `hash_keys`: float64 [N]."""
    return (hash_keys(seed, kind, texts) >> np.uint64(11)) / float(1 << 53)


def users_needed(settings: PreferenceSettings) -> dict[str, int]:
    """How many users each split has at least: so many that one can be told from another."""
    held_out = {"validation": settings.validation_user_share, "test": settings.test_user_share}
    return {"train": USERS_A_SPLIT, **{split: USERS_A_SPLIT for split, share in held_out.items() if share > 0}}


def split_users(user_ids: Iterable[str], settings: PreferenceSettings) -> np.ndarray:
    """`train`, `validation` or `test` for each user; the last two are the unseen ones.

    By share of the hashes. In a small log, where that leaves a split with fewer than `users_needed`, the next users in
    the order of the hashes fill it; where there are too few for that, the shares stand.
    """
    units = hash_units(settings.seed, "user", user_ids)
    needed = users_needed(settings)
    n_test = int((units < settings.test_user_share).sum())
    n_held_out = int((units < settings.test_user_share + settings.validation_user_share).sum())
    if len(units) >= sum(needed.values()):
        n_test, n_validation = max(n_test, needed.get("test", 0)), needed.get("validation", 0)
        n_test = min(n_test, len(units) - needed["train"] - n_validation)
        n_held_out = min(max(n_held_out, n_test + n_validation), len(units) - needed["train"])
    place = np.argsort(np.argsort(units, kind="stable"), kind="stable")
    return np.where(place < n_test, "test", np.where(place < n_held_out, "validation", "train"))


def shard_users(user_ids: Iterable[str], n_shards: int) -> list[str]:
    """The shard `s-NN` of each user: what is computed a user at a time is spread over these."""
    names = shard_names(n_shards)
    return [names[key % n_shards] for key in hash_keys(0, "shard", user_ids).tolist()]


def shard_names(n_shards: int) -> list[str]:
    """`s-00`, `s-01`, ...: every shard, also one without users."""
    width = max(2, len(str(n_shards - 1)))
    return [f"s-{at:0{width}d}" for at in range(n_shards)]


def split_captions(captions: Iterable[str], settings: PreferenceSettings) -> np.ndarray:
    """`eval` or `train` for each caption, by its normalised text.

    By share of the hashes; where that leaves one of the two without any, the caption at the edge goes over.
    """
    keys = [normalise_caption(caption) for caption in captions]
    unique = sorted(set(keys))
    units = dict(zip(unique, hash_units(settings.seed, "caption", unique).tolist(), strict=True))
    held_out = {key for key, unit in units.items() if unit < settings.eval_caption_share}
    if 0 < settings.eval_caption_share < 1 and len(unique) > 1:
        if not held_out:
            held_out = {min(unique, key=units.__getitem__)}
        elif len(held_out) == len(unique):
            held_out.remove(max(unique, key=units.__getitem__))
    return np.array(["eval" if key in held_out else "train" for key in keys], dtype="<U5")


def image_chains(users: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Number the chains: pairs of one user that are linked through images they share, directly or by way of others.

    Pick-a-Pic's application kept the winner for the next round, so a session is one chain. All arguments are codes
    from 0, int [N]; returns a code for each pair, int [N].
    """
    n_images = int(max(chosen.max(), rejected.max())) + 1
    nodes = np.concatenate([users.astype(np.int64) * n_images + chosen, users.astype(np.int64) * n_images + rejected])
    unique, node = np.unique(nodes, return_inverse=True)
    chosen_node, rejected_node = np.split(node, 2)
    edges = coo_array((np.ones(len(users), np.int8), (chosen_node, rejected_node)), shape=(len(unique), len(unique)))
    _, component = connected_components(edges, directed=False)
    return component[chosen_node]


def assign(pairs: pd.DataFrame, settings: PreferenceSettings) -> Splits:
    """Give every pair its role, every user a split and a shard, every caption a split.

    The unit is the chain (`image_chains`), so within a user no image has two roles:

    - a chain with an evaluation caption is for evaluation; its pairs with other captions are unused;
    - any other chain gives either one pair, drawn by hash, to a support group (its further pairs are unused), or all
      of its pairs to training;
    - a user's chains are ordered by hash. The first go to support, in whole groups: `support_share` of a seen user's
      chains (at least one group), all of an unseen user's, never more than `max_groups`. Chains that an unseen user
      has beyond that are unused: nothing of an unseen user is trained on.

    Users without one whole support group cannot be described and leave, with their pairs. `pairs` has the columns of
    `ppd.preferences.schema.PAIRS`; linear in the number of pairs but for two sorts.
    """
    pairs = pairs.reset_index(drop=True)
    if pairs.empty:
        return _assemble(pairs, np.array([], object), np.array([], np.int32), {}, {}, settings)
    user, user_ids = pd.factorize(pairs["user_id"])
    caption, captions = pd.factorize(pairs["caption"])
    image, _ = pd.factorize(pd.concat([pairs["chosen_uid"], pairs["rejected_uid"]]))
    chain = image_chains(user, image[: len(pairs)], image[len(pairs) :])

    caption_split = split_captions(captions, settings)
    is_eval = (caption_split == "eval")[caption]
    chain_is_eval = np.bincount(chain, weights=is_eval) > 0  # [n_chains]

    # Of each chain the pair with the lowest key stands for it; ties of keys fall back to the order of the log.
    texts = pairs["user_id"] + "\0" + pairs["chosen_uid"] + "\0" + pairs["rejected_uid"]
    key = hash_keys(settings.seed, "support", texts)
    by_chain = np.lexsort((key, chain))
    first = by_chain[np.r_[True, np.diff(chain[by_chain]) > 0]]  # [n_chains], indices of pairs
    first = first[~chain_is_eval[chain[first]]]

    # Rank a user's chains by that pair's key, and fill whole groups from the front.
    first = first[np.lexsort((key[first], user[first]))]
    n_user_chains = np.bincount(user[first], minlength=len(user_ids))
    rank = np.arange(len(first)) - (np.cumsum(n_user_chains) - n_user_chains)[user[first]]
    described = n_user_chains >= settings.pairs_per_group
    user_split = np.full(len(user_ids), "train", dtype="<U10")
    user_split[described] = split_users(user_ids[described], settings)
    unseen = (user_split != "train")[user]
    n_groups = _support_groups(n_user_chains, user_split == "train", settings)
    chosen = rank < (n_groups * settings.pairs_per_group)[user[first]]

    chain_is_support = np.zeros_like(chain_is_eval)
    chain_is_support[chain[first[chosen]]] = True
    role = np.where(unseen, UNUSED, TRAIN).astype(object)
    role[chain_is_support[chain]] = UNUSED
    role[first[chosen]] = SUPPORT
    role[chain_is_eval[chain]] = UNUSED
    role[is_eval] = EVAL
    group = np.full(len(pairs), -1, np.int32)
    group[first[chosen]] = rank[chosen] // settings.pairs_per_group

    stays = described[user]
    return _assemble(
        pairs[stays].reset_index(drop=True),
        role[stays],
        group[stays],
        dict(zip(user_ids, user_split.tolist(), strict=True)),
        dict(zip(captions, caption_split.tolist(), strict=True)),
        settings,
    )


def _support_groups(n_chains: np.ndarray, seen: np.ndarray, settings: PreferenceSettings) -> np.ndarray:
    """Whole support groups of each user, int [N]."""
    possible = n_chains // settings.pairs_per_group
    wanted = np.where(seen, (n_chains * settings.support_share).astype(np.int64) // settings.pairs_per_group, possible)
    return np.minimum(np.maximum(wanted, np.minimum(possible, 1)), settings.max_groups)


def _assemble(
    pairs: pd.DataFrame,
    role: np.ndarray,
    group: np.ndarray,
    user_split: Mapping[str, str],
    caption_split: Mapping[str, str],
    settings: PreferenceSettings,
) -> Splits:
    pairs = pairs.assign(role=pd.array(role, dtype="str"), support_group=group)
    per_user = pairs.groupby("user_id", sort=True)["support_group"].agg(["size", "max"])
    user_ids = per_user.index.tolist()
    users = pd.DataFrame(
        {
            "user_id": pd.array(user_ids, dtype="str"),
            "split": pd.array([user_split[user_id] for user_id in user_ids], dtype="str"),
            "shard": pd.array(shard_users(user_ids, settings.n_shards), dtype="str"),
            "n_pairs": per_user["size"].to_numpy(np.int32),
            "n_support_groups": (per_user["max"].to_numpy() + 1).astype(np.int32),
        }
    )
    texts = sorted(pairs["caption"].unique().tolist())
    split = [caption_split[text] for text in texts]
    captions = pd.DataFrame({"caption": pd.array(texts, dtype="str"), "split": pd.array(split, dtype="str")})
    return Splits(pairs, users, captions)
