"""The plan of a log of ten users and six captions, row by row.

Users and captions come in the order of their hashes, as `printf "('person', 'ben')" | sha256sum` gives them.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch

from ppd.evaluation.plan import (
    evaluation_captions,
    image_requests,
    plan_comparisons,
    plan_images,
    plan_interpolations,
    plan_requests,
)
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings

SPLITS = {
    "test": ["ann", "ben", "cat", "dan", "eve", "ida"],
    "train": ["fay", "gus", "hal"],
    "validation": ["joe"],
}
CAPTIONS = ["a bee", "a cat", "a dog", "a fox", "a hen"]
SETTINGS = EvaluationSettings(
    n_unseen_users=5,
    n_seen_users=2,
    captions_per_user=2,
    n_seeds=4,
    first_seed=5,
    opponents_per_image=2,
    n_interpolations=3,
    captions_per_interpolation=1,
    points_per_interpolation=3,
)


@pytest.fixture
def log() -> Preferences:
    users = pd.DataFrame(
        [(user, split) for split, some in SPLITS.items() for user in some], columns=["user_id", "split"]
    )
    captions = pd.DataFrame({"caption": [*CAPTIONS, "an owl"], "split": ["eval"] * 5 + ["train"]})
    return Preferences(Path(), pd.DataFrame(), users, captions)


@pytest.fixture
def requests(log: Preferences) -> pd.DataFrame:
    return plan_requests(log, SETTINGS)


def rows(table: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(table.itertuples(index=False, name=None))


def test_users_get_the_first_captions_and_seeds_that_move_on_with_both(requests: pd.DataFrame) -> None:
    assert rows(requests) == [
        ("unseen", "ben", "a bee", 5),
        ("unseen", "ben", "a hen", 6),
        ("unseen", "eve", "a bee", 6),
        ("unseen", "eve", "a hen", 7),
        ("unseen", "cat", "a bee", 7),
        ("unseen", "cat", "a hen", 8),
        ("unseen", "dan", "a bee", 8),
        ("unseen", "dan", "a hen", 5),
        ("unseen", "ann", "a bee", 5),
        ("unseen", "ann", "a hen", 6),
        ("seen", "hal", "a bee", 5),
        ("seen", "hal", "a hen", 6),
        ("seen", "fay", "a bee", 6),
        ("seen", "fay", "a hen", 7),
    ]


def test_half_of_few_captions_are_for_validation(log: Preferences) -> None:
    validation = SETTINGS.model_copy(update={"unseen_split": "validation"})
    assert evaluation_captions(log, validation) == ["a cat", "a dog"]
    assert evaluation_captions(log, SETTINGS) == ["a bee", "a hen", "a fox"]
    one = {"n_validation_captions": 1}
    assert evaluation_captions(log, validation.model_copy(update=one)) == ["a cat"]
    assert evaluation_captions(log, SETTINGS.model_copy(update=one)) == ["a dog", "a bee", "a hen", "a fox"]


def test_a_resample_key_orders_users_and_each_ones_captions_anew(log: Preferences) -> None:
    found = plan_requests(log, SETTINGS.model_copy(update={"resample_key": "mon"}))
    assert rows(found)[:6] == [
        ("unseen", "cat", "a fox", 7),
        ("unseen", "cat", "a hen", 6),
        ("unseen", "ann", "a hen", 7),
        ("unseen", "ann", "a bee", 6),
        ("unseen", "ben", "a fox", 5),
        ("unseen", "ben", "a bee", 7),
    ]


def test_a_pooled_method_samples_every_caption_with_every_seed(requests: pd.DataFrame) -> None:
    pool = image_requests(requests, "dpo", SETTINGS)
    assert list(pool.columns) == ["user_id", "caption", "seed"]
    assert list(pool.index) == list(range(8))
    assert rows(pool) == [("", caption, seed) for caption in ("a bee", "a hen") for seed in (5, 6, 7, 8)]
    assert rows(image_requests(requests, "ppd", SETTINGS)) == rows(requests[["user_id", "caption", "seed"]])


def test_an_image_meets_the_pool_at_its_own_seed_and_at_odd_steps_from_it(requests: pd.DataFrame) -> None:
    table = plan_comparisons(requests, SETTINGS)
    assert list(table.index) == list(range(len(table)))
    met = table[(table.user_id == "eve") & (table.caption == "a hen") & (table.opponent != "ppd-shuffled")]
    columns = ["method", "opponent", "pairing", "method_user", "method_seed", "opponent_seed", "first_of_pairing"]
    assert (met.opponent_user == "").all() and (met.opponent_model == met.opponent).all()
    assert rows(met[columns]) == [
        (method, opponent, pairing, "eve" if method == "ppd" else "", 7, seed, first)
        for method, opponent in (("ppd", "base"), ("ppd", "dpo"), ("ppd", "sft"), ("dpo", "base"), ("sft", "base"))
        for pairing, seed, first in (("same-seed", 7, True), ("independent", 6, True), ("independent", 5, False))
    ]


def test_an_opponent_with_the_same_noise_is_not_called_independent(requests: pd.DataFrame) -> None:
    """With 4 seeds the fourth step comes round to the image's own."""
    table = plan_comparisons(requests, SETTINGS.model_copy(update={"opponents_per_image": 4}))
    met = table[(table.user_id == "eve") & (table.caption == "a hen") & (table.opponent == "dpo")]
    assert met.opponent_seed.tolist() == [7, 6, 5, 8]


def test_an_image_meets_those_of_the_users_after_its_own(requests: pd.DataFrame) -> None:
    table = plan_comparisons(requests, SETTINGS)
    met = table[table.opponent == "ppd-shuffled"]
    groups = met[["users", "caption"]].drop_duplicates()
    assert rows(groups) == [("unseen", "a bee"), ("unseen", "a hen"), ("seen", "a bee"), ("seen", "a hen")]
    assert (
        (met.method == "ppd").all() and (met.opponent_model == "ppd").all() and (met.method_user == met.user_id).all()
    )
    columns = ["user_id", "pairing", "method_seed", "opponent_user", "opponent_seed", "first_of_pairing"]
    assert rows(met[(met.users == "unseen") & (met.caption == "a bee")][columns]) == [
        ("ben", "same-seed", 5, "ann", 5, True),
        ("ben", "independent", 5, "eve", 6, True),
        ("ben", "independent", 5, "cat", 7, False),
        ("eve", "independent", 6, "cat", 7, True),
        ("eve", "independent", 6, "dan", 8, False),
        ("cat", "independent", 7, "dan", 8, True),
        ("cat", "independent", 7, "ann", 5, False),
        ("dan", "independent", 8, "ann", 5, True),
        ("dan", "independent", 8, "ben", 5, False),
        ("ann", "same-seed", 5, "ben", 5, True),
        ("ann", "independent", 5, "eve", 6, True),
        ("ann", "independent", 5, "cat", 7, False),
    ]


def test_of_several_users_with_its_seed_an_image_meets_the_next_one() -> None:
    table = pd.DataFrame({"users": "seen", "user_id": list("abc"), "caption": "a bee", "seed": 5})
    met = plan_comparisons(table, SETTINGS)
    met = met[met.opponent == "ppd-shuffled"]
    assert rows(met[["user_id", "pairing", "opponent_user"]]) == [(u, "same-seed", v) for u, v in ("ab", "bc", "ca")]


def test_interpolations_go_between_two_unseen_users_who_follow_each_other(requests: pd.DataFrame) -> None:
    expected = [
        (first, second, share, f"{first}~{second}~{share:.3f}", "a bee", seed)
        for first, second, seed in (("ben", "eve", 5), ("cat", "dan", 6))
        for share in (0.0, 0.5, 1.0)
    ]
    assert rows(plan_interpolations(requests, SETTINGS)) == expected
    single = SETTINGS.model_copy(update={"n_interpolations": 1})
    assert rows(plan_interpolations(requests, single)) == expected[:3]


def test_each_method_samples_with_the_embeddings_that_it_knows(requests: pd.DataFrame) -> None:
    """ppd with each user's first group, and what lies between two; a pooled one with any embedding but zero."""
    embeddings = {user: torch.tensor([[[n, 1.0]], [[n, 2.0]]]) for n, user in enumerate(requests.user_id.unique())}
    base, dpo, ppd = (plan_images(requests, method, SETTINGS, embeddings) for method in ("base", "dpo", "ppd"))
    assert (base.keys(), base["images"].users) == ({"images"}, {})
    assert dpo.keys() == {"images"}
    assert {user: u.tolist() for user, u in dpo["images"].users.items()} == {"": [[1.0, 1.0]]}
    assert (
        rows(dpo["images"].requests)
        == rows(base["images"].requests)
        == rows(image_requests(requests, "base", SETTINGS))
    )
    assert rows(ppd["images"].requests) == rows(requests[["user_id", "caption", "seed"]])
    assert {user: u.tolist() for user, u in ppd["images"].users.items()} == {
        user: [[float(n), 1.0]] for n, user in enumerate(requests.user_id.unique())
    }
    between = ppd["interpolations"]
    assert list(between.requests.columns) == ["user_id", "caption", "seed"]
    assert list(between.users) == between.requests.user_id.tolist()
    assert [u.tolist() for u in between.users.values()] == [[[x, 1.0]] for x in (0.0, 0.5, 1.0, 2.0, 2.5, 3.0)]
