"""Every kind of leak, put in by hand, is found."""

import numpy as np
import pandas as pd
import pytest

from ppd.preferences.leakage import find_leaks
from ppd.preferences.splits import Splits, assign
from ppd.settings import PreferenceSettings


@pytest.fixture
def splits() -> Splits:
    rows = [
        (user, f"a thing {number % 25}", f"{user}-{number}+", f"{user}-{number}-")
        for user in "abcdefghijkl"
        for number in range(25)
    ]
    pairs = pd.DataFrame(rows, columns=["user_id", "caption", "chosen_uid", "rejected_uid"], dtype="str")
    return assign(pairs.assign(pair_id=np.arange(len(pairs)), created_at=pd.NaT), PreferenceSettings())


def first(splits: Splits, role: str, split: str = "train") -> int:
    users = splits.users.loc[splits.users["split"] == split, "user_id"]
    pairs = splits.pairs
    return pairs.index[(pairs["role"] == role) & (pairs["user_id"] == users.iloc[0])][0]


def test_nothing_is_found_where_nothing_is_wrong(splits):
    assert set(splits.pairs["role"]) >= {"support", "train", "eval"}
    assert find_leaks(*splits) == []


def test_training_on_an_unseen_user(splits):
    splits.pairs.loc[first(splits, "unused", "test"), "role"] = "train"
    assert find_leaks(*splits) == ["1 pairs of unseen users are trained on"]


def test_a_user_in_two_splits(splits):
    twice = pd.concat([splits.users, splits.users.head(1).assign(split="validation")])
    assert "1 users are in more than one split" in find_leaks(splits.pairs, twice, splits.captions)


def test_an_evaluation_caption_in_training_in_another_spelling(splits):
    held_out = splits.pairs.loc[first(splits, "eval"), "caption"]
    splits.pairs.loc[first(splits, "train"), "caption"] = f" {held_out.upper()}"
    assert find_leaks(*splits) == ["1 captions are both in training or support and in evaluation"]


@pytest.mark.parametrize(("role", "named"), [("train", "training"), ("eval", "evaluation")])
@pytest.mark.parametrize("column", ["chosen_uid", "rejected_uid"])
def test_a_support_image_in_another_role(splits, role, named, column):
    support = splits.pairs.loc[first(splits, "support"), "rejected_uid"]
    splits.pairs.loc[first(splits, role), column] = support
    assert find_leaks(*splits) == [f"1 support images are in the same user's {named}"]


def test_a_support_image_in_another_users_training_is_no_leak(splits):
    pairs = splits.pairs
    support = pairs.loc[first(splits, "support"), "chosen_uid"]
    elsewhere = pairs.index[
        (pairs["role"] == "train") & (pairs["user_id"] != pairs.loc[first(splits, "support"), "user_id"])
    ]
    pairs.loc[elsewhere[0], "chosen_uid"] = support
    assert find_leaks(*splits) == []


def test_a_support_image_twice(splits):
    at = first(splits, "support")
    user = splits.pairs.loc[at, "user_id"]
    others = splits.pairs.index[(splits.pairs["role"] == "support") & (splits.pairs["user_id"] == user)]
    splits.pairs.loc[others[1], "chosen_uid"] = splits.pairs.loc[at, "chosen_uid"]
    assert find_leaks(*splits) == ["1 support images are twice in the same user's support"]


def test_a_support_group_that_is_not_whole(splits):
    pairs = splits.pairs.drop(index=first(splits, "support"))
    assert find_leaks(pairs, splits.users, splits.captions) == ["1 support groups differ in size from the others"]


def test_a_caption_in_two_splits(splits):
    captions = pd.concat([splits.captions, splits.captions.head(1).assign(split="other")])
    assert find_leaks(splits.pairs, splits.users, captions) == ["1 captions are in more than one split"]
