"""The guarantees of the splits, each as a property of any log."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppd.preferences.leakage import find_leaks
from ppd.preferences.splits import (
    assign,
    hash_units,
    image_chains,
    normalise_caption,
    shard_users,
    split_captions,
    split_users,
)
from ppd.settings import PreferenceSettings

SETTINGS = PreferenceSettings(pairs_per_group=2, max_groups=3, validation_user_share=0.2, test_user_share=0.2)
CAPTIONS = [
    "a fox",
    "A  fox",
    "a FOX ",
    "Straße",
    "STRASSE",
    "ﬁsh",
    "fish",
    "cafe\u0301",
    "café",
    "a hen",
    "a boat",
    "狐",
]


def table(rows) -> pd.DataFrame:
    columns = ["user_id", "caption", "chosen_uid", "rejected_uid"]
    pairs = pd.DataFrame(rows, columns=columns, dtype="str")
    return pairs.assign(pair_id=np.arange(len(pairs)), created_at=pd.NaT)


@st.composite
def logs(draw, users: str = "abcdefgh", max_pairs: int = 60) -> pd.DataFrame:
    """Logs of few users, captions and images; users share captions and images, and keep winners for a while."""
    n = draw(st.integers(0, max_pairs))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_images = draw(st.sampled_from([4, 20, 200]))
    chosen, step = rng.integers(n_images, size=n), rng.integers(1, n_images, size=n)
    keep = np.flatnonzero(rng.random(n) < draw(st.sampled_from([0.0, 0.5]))) + 1
    chosen[keep[keep < n]] = chosen[keep[keep < n] - 1]
    rows = zip(
        rng.choice(list(users), size=n),
        rng.choice(CAPTIONS, size=n),
        (f"i{image}" for image in chosen),
        (f"i{image}" for image in (chosen + step) % n_images),
        strict=True,
    )
    return table(list(rows)).drop_duplicates(["user_id", "chosen_uid", "rejected_uid"], ignore_index=True)


def images_of(pairs: pd.DataFrame) -> set[tuple[str, str]]:
    """(user, image) of all images in `pairs`."""
    return set(zip(pairs["user_id"], pairs["chosen_uid"], strict=True)) | set(
        zip(pairs["user_id"], pairs["rejected_uid"], strict=True)
    )


def by_role(pairs: pd.DataFrame, role: str) -> pd.DataFrame:
    return pairs[pairs["role"] == role]


seeds = st.integers(0, 5).map(lambda seed: SETTINGS.model_copy(update={"seed": seed}))


@given(logs(), seeds)
def test_an_unseen_user_is_never_trained_on(log, settings):
    splits = assign(log, settings)
    assert splits.users["user_id"].is_unique
    unseen = splits.users.loc[splits.users["split"] != "train", "user_id"]
    assert not set(by_role(splits.pairs, "train")["user_id"]) & set(unseen)
    assert set(splits.pairs["user_id"]) == set(splits.users["user_id"])


@given(logs(), seeds)
def test_support_groups_are_disjoint_and_whole(log, settings):
    splits = assign(log, settings)
    support = by_role(splits.pairs, "support")
    sizes = support.groupby(["user_id", "support_group"]).size()
    assert (sizes == settings.pairs_per_group).all()
    n_groups = support.groupby("user_id")["support_group"].agg(["nunique", "max"])
    assert (n_groups["nunique"] == n_groups["max"] + 1).all()
    assert (n_groups["nunique"] <= settings.max_groups).all()
    assert n_groups["nunique"].to_dict() == splits.users.set_index("user_id")["n_support_groups"].to_dict()
    assert (splits.pairs.loc[splits.pairs["role"] != "support", "support_group"] == -1).all()


@given(logs(), seeds)
def test_an_evaluation_caption_is_never_in_training_or_support(log, settings):
    pairs = assign(log, settings).pairs
    held_out = set(by_role(pairs, "eval")["caption"].map(normalise_caption))
    used = set(pairs.loc[pairs["role"].isin(["train", "support"]), "caption"].map(normalise_caption))
    assert not held_out & used


@given(logs(), seeds)
def test_within_a_user_no_image_has_two_roles(log, settings):
    pairs = assign(log, settings).pairs
    support, train, held_out = (images_of(by_role(pairs, role)) for role in ("support", "train", "eval"))
    assert not support & train
    assert not support & held_out
    assert not train & held_out


@given(logs(), seeds)
def test_within_a_user_no_image_is_in_two_support_pairs(log, settings):
    support = by_role(assign(log, settings).pairs, "support")
    assert len(images_of(support)) == 2 * len(support)


def crowd(settings) -> pd.DataFrame:
    """Users and captions enough that every share is more than the least that a split must have."""
    users = [f"crowd {n}" for n in range(40)]
    assert (pd.Series(split_users(users, settings)).value_counts() > 2).all()
    captions = [f"thing {n}" for n in range(40)]
    assert (hash_units(settings.seed, "caption", captions) < settings.eval_caption_share).any()
    rows = [(u, captions[(i + 5 * n) % 40], f"{u}{n}+", f"{u}{n}-") for i, u in enumerate(users) for n in range(8)]
    return table(rows)


@given(logs("abcd"), logs("efgh"), seeds)
def test_nothing_moves_when_users_are_added(log, further, settings):
    log = pd.concat([crowd(settings), log], ignore_index=True)
    before = assign(log, settings)
    after = assign(pd.concat([further, log], ignore_index=True), settings)
    keys = ["user_id", "caption", "chosen_uid", "rejected_uid"]
    columns = [*keys, "role", "support_group"]
    of_the_first = after.pairs[after.pairs["user_id"].isin(log["user_id"])]
    pd.testing.assert_frame_equal(before.pairs[columns], of_the_first[columns].reset_index(drop=True))
    pd.testing.assert_frame_equal(
        before.users, after.users[after.users["user_id"].isin(log["user_id"])].reset_index(drop=True)
    )
    later = after.captions.set_index("caption")["split"]
    assert all(later[row.caption] == row.split for row in before.captions.itertuples())


@given(logs(), seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_log_does_not_matter(log, settings, random):
    order = list(range(len(log)))
    random.shuffle(order)
    keys = ["user_id", "caption", "chosen_uid", "rejected_uid"]

    def outcome(pairs):
        return assign(pairs, settings).pairs[[*keys, "role", "support_group"]].sort_values(keys, ignore_index=True)

    pd.testing.assert_frame_equal(outcome(log), outcome(log.iloc[order]))


@given(logs(), seeds)
def test_the_leakage_check_agrees(log, settings):
    assert find_leaks(*assign(log, settings)) == []


@given(logs(), seeds)
def test_only_users_without_a_support_group_leave(log, settings):
    """Counted in another way: the greedy size of a user's chains, by repeatedly merging pairs that share images."""
    stayed = set(assign(log, settings).users["user_id"])
    eval_captions = set(log["caption"][split_captions(log["caption"], settings) == "eval"])
    for user, pairs in log.groupby("user_id"):
        chains: list[tuple[set[str], bool]] = []
        for pair in pairs.itertuples():
            images, is_eval = {pair.chosen_uid, pair.rejected_uid}, pair.caption in eval_captions
            linked = [chain for chain in chains if chain[0] & images]
            chains = [chain for chain in chains if not chain[0] & images]
            chains.append((images.union(*(chain[0] for chain in linked)), is_eval or any(c[1] for c in linked)))
        assert (user in stayed) == (sum(not is_eval for _, is_eval in chains) >= settings.pairs_per_group)


@given(logs(), seeds)
def test_a_small_log_has_two_users_in_every_split_where_there_are_enough(log, settings):
    split = assign(log, settings).users["split"].value_counts()
    if split.sum() >= 6:
        assert {*split.index} == {"train", "validation", "test"}
        assert split.min() >= 2


@pytest.mark.parametrize("n", [6, 7, 8, 12, 40, 400])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_moved_who_need_not_be(n, seed):
    settings = PreferenceSettings(seed=seed)
    names = [f"user {i}" for i in range(n)]
    units = hash_units(seed, "user", names)
    natural = np.where(units < 0.2, "test", np.where(units < 0.3, "validation", "train"))
    split = split_users(names, settings)
    counts = pd.Series(natural).value_counts().reindex(["test", "validation", "train"], fill_value=0)
    if counts.min() >= 2:
        assert split.tolist() == natural.tolist()
    assert (split != natural).sum() <= 2 * (2 - counts).clip(lower=0).sum()
    order = {"test": 0, "validation": 1, "train": 2}
    assert sorted(order[s] for s in split) == [order[s] for s in split[np.argsort(units)]]


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_of_two_captions_one_is_held_out_and_one_is_not(n, share):
    captions = [f"a card for day {i}" for i in range(n)]
    split = split_captions([*captions, captions[0].upper()], PreferenceSettings(eval_caption_share=share)).tolist()
    assert {"eval", "train"} == set(split)
    assert split[0] == split[-1]
    if share < 0.1 or n < 4:
        assert split[:-1].count("eval") == 1 or share > 0.1


@given(st.text())
def test_normalising_twice_is_normalising_once(caption):
    once = normalise_caption(caption)
    assert normalise_caption(once) == once
    assert normalise_caption(f"  {caption} ".upper()) == normalise_caption(caption.upper())


@pytest.mark.parametrize(
    ("one", "other"),
    [("A  Fox\n", "a fox"), ("STRASSE", "straße"), ("ﬁsh", "FISH"), ("cafe\u0301", "CAFÉ"), ("a\u00a0b", "a b")],
)
def test_captions_that_count_as_the_same(one, other):
    assert normalise_caption(one) == normalise_caption(other)


def test_shares_come_out_as_set():
    names = [str(number) for number in range(20_000)]
    settings = PreferenceSettings(validation_user_share=0.1, test_user_share=0.25, eval_caption_share=0.15)
    users = pd.Series(split_users(names, settings)).value_counts(normalize=True)
    assert users["validation"] == pytest.approx(0.1, abs=0.01)
    assert users["test"] == pytest.approx(0.25, abs=0.01)
    assert (split_captions(names, settings) == "eval").mean() == pytest.approx(0.15, abs=0.01)
    shards = pd.Series(shard_users(names, 16)).value_counts()
    assert list(shards.sort_index().index) == [f"s-{shard:02d}" for shard in range(16)]
    assert shards.min() > 1_000


def test_draws_are_the_same_on_every_machine_and_apart_from_one_another():
    # printf '0\000user\0007' | md5sum starts with 1017ec9d, and 0x1017ec9d / 2**32 = 0.062865
    assert hash_units(0, "user", ["7"])[0] == pytest.approx(0.062865, abs=1e-6)
    assert len({*hash_units(0, "user", ["7"]), *hash_units(1, "user", ["7"]), *hash_units(0, "caption", ["7"])}) == 3


def test_a_seen_user_keeps_pairs_to_train_on_and_an_unseen_one_does_not():
    rows = [(user, "a fox", f"{user}{n}+", f"{user}{n}-") for user in "abcdefghijklmnop" for n in range(10)]
    settings = SETTINGS.model_copy(update={"eval_caption_share": 0.0})
    splits = assign(table(rows), settings)
    roles = splits.pairs.groupby(["user_id", "role"]).size().unstack(fill_value=0)
    seen = splits.users.set_index("user_id")["split"] == "train"
    assert roles[seen][["support", "train"]].drop_duplicates().to_numpy().tolist() == [[4, 6]]
    assert roles[~seen][["support", "train", "unused"]].drop_duplicates().to_numpy().tolist() == [[6, 0, 4]]


def test_chains_link_through_images_of_the_same_user_only():
    users = np.array([0, 0, 0, 1, 0])
    chosen, rejected = np.array([0, 1, 5, 0, 2]), np.array([1, 2, 6, 9, 3])
    chains = image_chains(users, chosen, rejected)
    assert chains[0] == chains[1] == chains[4]
    assert len({chains[0], chains[2], chains[3]}) == 3
