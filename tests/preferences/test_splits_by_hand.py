"""A log of five users, and splits at the edges of what the settings allow, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from ppd.preferences.splits import (
    assign,
    hash_units,
    image_chains,
    shard_names,
    shard_users,
    split_captions,
    split_users,
    users_needed,
)
from ppd.settings import PreferenceSettings

KEYS = ["user_id", "caption", "chosen_uid", "rejected_uid"]
SETTINGS = PreferenceSettings(
    pairs_per_group=2, max_groups=2, support_share=0.5, validation_user_share=0.2, test_user_share=0.2, n_shards=16
)


def test_the_roles_of_a_small_log() -> None:
    """In the order of the keys (`printf '0\\000support\\000zoe\\0007\\0008' | md5sum`) chains go to support.

    ben has no group of two beside his evaluation pair, and leaves. zoe is seen: of her four chains half describe her.
    eve and ann are unseen: all whole groups, at most two.
    """
    told = [
        ("zoe", "a fox", "1", "2", "support", 0),
        ("ben", "a fox", "1", "2", None, None),
        ("zoe", "a hen", "2", "3", "unused", -1),  # of the chain 1, 2, 3, 4 one pair describes her
        ("zoe", "a cat", "4", "3", "unused", -1),
        ("zoe", "a fox", "5", "6", "train", -1),
        ("eve", "a fox", "1", "2", "unused", -1),  # a fifth chain, when two groups are full
        ("zoe", "a dog", "7", "8", "support", 0),
        ("zoe", "a fox", "9", "10", "train", -1),
        ("zoe", "an owl", "11", "12", "eval", -1),
        ("zoe", "a fox", "13", "12", "unused", -1),  # its image 12 is in an evaluation pair
        ("eve", "a hen", "3", "4", "support", 1),
        ("eve", "a fox", "5", "6", "support", 0),
        ("eve", "a fox", "7", "8", "support", 0),
        ("eve", "An  Owl", "9", "10", "eval", -1),
        ("eve", "a cat", "11", "12", "support", 1),
        ("ben", "an owl", "3", "4", None, None),
        ("ann", "a fox", "1", "2", "support", 0),
        ("ann", "a hen", "3", "4", "unused", -1),  # image 4 is in the next pair too, which has the lower key
        ("ann", "a fox", "4", "5", "support", 0),
        ("ann", "a hen", "8", "10", "unused", -1),  # a third chain is no second group
        ("cat", "a fox", "1", "2", "support", 0),  # with just one group she stays, and nothing of hers is trained on
        ("cat", "a hen", "3", "4", "support", 0),
        ("eve", "a dog", "6", "18", "unused", -1),  # of a chain that has given its pair; its key is the second lowest
    ]
    log = pd.DataFrame([row[:4] for row in told], columns=KEYS, dtype="str", index=range(100, 123))
    pairs, users, captions = assign(log, SETTINGS)
    stay = [row for row in told if row[4] is not None]
    assert list(pairs.columns) == [*KEYS, "role", "support_group"]
    assert list(pairs.index) == list(range(len(stay)))
    assert list(pairs.itertuples(index=False, name=None)) == stay
    assert list(users.columns) == ["user_id", "split", "shard", "n_pairs", "n_support_groups"]
    assert list(users.itertuples(index=False, name=None)) == [
        ("ann", "validation", "s-01", 4, 1),
        ("cat", "train", "s-00", 2, 1),
        ("eve", "test", "s-12", 7, 2),
        ("zoe", "train", "s-03", 8, 1),
    ]
    assert list(captions.itertuples(index=False, name=None)) == [
        ("An  Owl", "eval"),
        ("a cat", "train"),
        ("a dog", "train"),
        ("a fox", "train"),
        ("a hen", "train"),
        ("an owl", "eval"),
    ]


def test_a_seen_user_is_described_however_small_the_share_of_support() -> None:
    rows = [("zoe", "a fox", f"{n}+", f"{n}-") for n in range(10)]
    settings = SETTINGS.model_copy(update={"support_share": 0.1, "eval_caption_share": 0.0})
    splits = assign(pd.DataFrame(rows, columns=KEYS, dtype="str"), settings)
    assert splits.pairs.role.value_counts().to_dict() == {"train": 8, "support": 2}


def test_a_log_without_a_pair_has_splits_without_a_row() -> None:
    assert [len(table) for table in assign(pd.DataFrame(columns=[*KEYS], dtype="str"), SETTINGS)] == [0, 0, 0]


def sizes(n_users: int, validation: float, test: float) -> dict[str, int]:
    settings = PreferenceSettings(validation_user_share=validation, test_user_share=test)
    return pd.Series(split_users([f"user {n}" for n in range(n_users)], settings)).value_counts().to_dict()


def test_every_split_that_has_a_share_needs_two_users() -> None:
    assert users_needed(PreferenceSettings()) == {"train": 2, "validation": 2, "test": 2}
    assert users_needed(PreferenceSettings(test_user_share=0)) == {"train": 2, "validation": 2}
    assert users_needed(PreferenceSettings(validation_user_share=0)) == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("n_users", "validation", "test", "expected"),
    [
        (6, 0.1, 0.2, {"train": 2, "validation": 2, "test": 2}),
        (6, 0.01, 0.01, {"train": 2, "validation": 2, "test": 2}),
        (12, 0.01, 0.01, {"train": 8, "validation": 2, "test": 2}),
        (12, 0.01, 0.98, {"train": 2, "validation": 2, "test": 8}),
        (12, 0.98, 0.01, {"train": 2, "validation": 8, "test": 2}),
        (12, 0.0, 0.01, {"train": 10, "test": 2}),
        (12, 0.01, 0.0, {"train": 10, "validation": 2}),
        (12, 0.0, 0.99, {"train": 2, "test": 10}),
        (12, 0.99, 0.0, {"train": 2, "validation": 10}),
        (12, 0.0, 0.0, {"train": 12}),
    ],
)
def test_the_least_that_a_split_has_and_no_more(n_users, validation, test, expected):
    assert sizes(n_users, validation, test) == expected


def test_whose_hash_is_exactly_the_share_is_no_longer_in_it() -> None:
    names = [f"user {n}" for n in range(400)]
    units = hash_units(0, "user", names)
    settings = PreferenceSettings(test_user_share=units[0], validation_user_share=0)
    assert split_users(names, settings).tolist() == np.where(units < units[0], "test", "train").tolist()
    second = min(unit for unit in units if unit > 0.5)
    settings = PreferenceSettings(test_user_share=0.25, validation_user_share=second - 0.25)
    assert split_users(names, settings).tolist().count("train") == (units >= second).sum()
    unit = hash_units(0, "caption", [names[0]])[0]
    assert split_captions(names, PreferenceSettings(eval_caption_share=unit))[0] == "train"


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, ["train", "train"]), (1.0, ["eval", "eval"]), (0.01, ["eval", "train"])]
)
def test_a_share_of_none_or_all_captions_is_kept_to_the_letter(share, expected):
    found = split_captions(["a hen", "an owl"], PreferenceSettings(eval_caption_share=share))
    assert sorted(found.tolist()) == expected


@pytest.mark.parametrize(("share", "split"), [(0.7, "train"), (0.8, "eval")])
def test_a_single_caption_is_where_its_hash_puts_it(share, split):
    assert hash_units(0, "caption", ["a fox"])[0] == pytest.approx(0.76, abs=1e-4)
    assert split_captions(["a fox"], PreferenceSettings(eval_caption_share=share)).tolist() == [split]


def test_shards_are_numbered_in_two_digits_and_in_as_many_as_it_takes() -> None:
    assert shard_names(1) == ["s-00"]
    assert shard_names(10)[-1] == "s-09"
    assert shard_names(100)[-1] == "s-99"
    assert (shard_names(101)[0], shard_names(101)[-1]) == ("s-000", "s-100")


def test_a_user_s_shard_is_the_same_on_every_machine() -> None:
    # printf '0\000shard\000ann' | md5sum starts with 67cc39c94dc69161, and 0x61 % 16 = 1; eve's ends in c, zoe's in 3.
    assert shard_users(["ann", "eve", "zoe"], 16) == ["s-01", "s-12", "s-03"]


def test_the_last_image_of_one_user_is_not_the_first_of_the_next() -> None:
    chains = image_chains(np.array([0, 1, 1]), np.array([9, 1, 0]), np.array([8, 2, 3]))
    assert len(set(chains.tolist())) == 3
