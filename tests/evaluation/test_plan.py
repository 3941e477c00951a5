from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ppd.evaluation.plan import POOLED, evaluation_captions, image_requests, plan_comparisons, plan_requests
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings

SETTINGS = EvaluationSettings(n_unseen_users=6, n_seen_users=8, captions_per_user=4, n_seeds=5)


@pytest.fixture(scope="module")
def preferences(simulated: Path) -> Preferences:
    return Preferences.open(simulated / "preferences")


@pytest.fixture(scope="module")
def requests(preferences: Preferences) -> pd.DataFrame:
    return plan_requests(preferences, SETTINGS)


def test_nothing_that_was_trained_on_is_asked_for(preferences: Preferences, requests: pd.DataFrame) -> None:
    trained = preferences.pairs[preferences.pairs.role != "eval"]
    assert not set(requests.caption) & set(trained.caption)
    split = preferences.users.set_index("user_id").split
    assert set(requests[requests.users == "unseen"].user_id.map(split)) == {"test"}
    assert set(requests[requests.users == "seen"].user_id.map(split)) == {"train"}


def test_no_caption_of_a_result_serves_to_choose_settings(preferences: Preferences, requests: pd.DataFrame) -> None:
    chosen_on = plan_requests(preferences, SETTINGS.model_copy(update={"unseen_split": "validation"}))
    assert set(chosen_on.caption)
    assert not set(chosen_on.caption) & set(requests.caption)
    assert not set(chosen_on[chosen_on.users == "unseen"].user_id) & set(requests.user_id)
    held_out = set(preferences.captions.caption[preferences.captions.split == "eval"])
    assert set(chosen_on.caption) | set(requests.caption) <= held_out


def test_a_single_held_out_caption_serves_both(preferences: Preferences) -> None:
    captions = preferences.captions[preferences.captions.split == "eval"].iloc[:1]
    single = replace(preferences, captions=captions)
    for split in ("validation", "test"):
        settings = SETTINGS.model_copy(update={"unseen_split": split})
        assert evaluation_captions(single, settings) == captions.caption.tolist()


def test_every_image_that_meets_is_drawn(requests: pd.DataFrame) -> None:
    drawn = {m: set(image_requests(requests, m, SETTINGS).itertuples(index=False, name=None)) for m in (*POOLED, "ppd")}
    table = plan_comparisons(requests, SETTINGS)
    for row in table.itertuples():
        assert (row.method_user, row.caption, row.method_seed) in drawn[row.method]
        assert (row.opponent_user, row.caption, row.opponent_seed) in drawn[row.opponent_model]


def test_pairings_are_what_they_say(requests: pd.DataFrame) -> None:
    table = plan_comparisons(requests, SETTINGS)
    assert ((table.pairing == "same-seed") == (table.method_seed == table.opponent_seed)).all()
    shuffled = table[table.opponent == "ppd-shuffled"]
    assert (shuffled.opponent_user != shuffled.user_id).all()
    assert len(shuffled)
    assert (table[table.method == "ppd"].method_user == table[table.method == "ppd"].user_id).all()


def test_fresh_seeds_share_no_noise_with_the_old_ones(preferences: Preferences, requests: pd.DataFrame) -> None:
    fresh = plan_requests(preferences, SETTINGS.model_copy(update={"first_seed": SETTINGS.n_seeds}))
    assert not set(fresh.seed) & set(requests.seed)
    assert list(fresh.user_id) == list(requests.user_id)


def test_an_occasion_draws_captions_anew_and_always_the_same(preferences: Preferences, requests: pd.DataFrame) -> None:
    fewer = SETTINGS.model_copy(update={"captions_per_user": 3})
    monday, again, tuesday = (
        plan_requests(preferences, fewer.model_copy(update={"resample_key": day}))
        for day in ("monday", "monday", "tuesday")
    )
    pd.testing.assert_frame_equal(monday, again)
    own = [table.groupby("user_id").caption.agg(frozenset) for table in (monday, tuesday)]
    assert own[0].nunique() > 1, "people do not all get the same captions"
    shared = own[0].index.intersection(own[1].index)
    assert (own[0][shared] != own[1][shared]).any(), "nor the same on another day"
    for table in (monday, tuesday):
        evaluated = preferences.captions.caption[preferences.captions.split == "eval"]
        assert set(table.caption) <= set(evaluated)
        assert set(table.groupby("user_id").caption.nunique()) == {3}
