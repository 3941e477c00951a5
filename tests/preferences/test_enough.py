"""A log that is too small says so when it is ingested, in one sentence; one that is just large enough passes."""

import pandas as pd
import pytest

from ppd.errors import InputError
from ppd.evaluation.plan import image_requests, plan_comparisons, plan_interpolations, plan_requests
from ppd.preferences.ingest import ingest
from ppd.preferences.leakage import check_leakage
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, PreferenceSettings, Settings

SETTINGS = PreferenceSettings(eval_caption_share=0.25)


def log(logs, folder, n_users, n_captions, n_rows=12, **changes):
    rows = [
        logs.row(
            user * n_rows + n,
            user_id=1000 + user,
            caption=f"a card for day {n % n_captions}",
            **changes,
        )
        for user in range(n_users)
        for n in range(n_rows)
    ]
    return logs.write(folder / "log" / "a.parquet", rows)


@pytest.mark.parametrize("n_users", [6, 8, 12, 40])
@pytest.mark.parametrize("n_captions", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_few_users_and_few_captions_can_be_evaluated(tmp_path, logs, n_users, n_captions, seed):
    settings = SETTINGS.model_copy(update={"seed": seed})
    summary = ingest(settings, log(logs, tmp_path, n_users, n_captions), tmp_path / "out", for_training=True)
    assert min(summary["users"].values()) >= 2
    assert summary["captions"]["eval"] >= 1
    assert summary["roles"]["train"] > 0
    assert check_leakage(tmp_path / "out") == []
    preferences = Preferences.open(tmp_path / "out")
    evaluation = EvaluationSettings()
    requests = plan_requests(preferences, evaluation)
    assert requests.groupby("users").user_id.nunique().min() >= 2
    assert len(image_requests(requests, "base", evaluation)) and len(image_requests(requests, "ppd", evaluation))
    assert set(plan_comparisons(requests, evaluation).opponent) == {"base", "dpo", "sft", "ppd-shuffled"}
    assert len(plan_interpolations(requests, evaluation)) > 0


@pytest.mark.parametrize("n_users", [1, 2, 5])
def test_too_few_users(tmp_path, logs, n_users):
    path = log(logs, tmp_path, n_users, 3)
    with pytest.raises(InputError, match=rf"{n_users} of {n_users} users have the 4 pairs .* 6 such users are enough"):
        ingest(SETTINGS, path, tmp_path / "out", for_training=True)
    assert not (tmp_path / "out").exists()


def test_users_of_too_few_pairs_do_not_count(tmp_path, logs):
    with pytest.raises(InputError, match=r"no user has 4 pairs|of 8 users have the 4 pairs"):
        ingest(SETTINGS, log(logs, tmp_path, 8, 3, n_rows=4), tmp_path / "out", for_training=True)


def test_a_single_caption(tmp_path, logs):
    with pytest.raises(InputError, match=r"have 1 different caption; 2 are enough"):
        ingest(SETTINGS, log(logs, tmp_path, 8, 1), tmp_path / "out", for_training=True)


def test_no_pair_is_left_to_train_on(tmp_path, logs):
    with pytest.raises(InputError, match=r"no pair is left to train on.*; 8 pairs of each .* are enough"):
        ingest(SETTINGS, log(logs, tmp_path, 8, 2, n_rows=8), tmp_path / "out", for_training=True)


def test_a_plan_without_captions_or_people_is_no_traceback():
    users = pd.DataFrame({"user_id": ["a", "b"], "split": ["train", "test"]})
    captions = pd.DataFrame({"caption": ["a fox", "a hen"], "split": ["train", "train"]})
    preferences = Preferences(None, pd.DataFrame(), users, captions)
    with pytest.raises(InputError, match="no caption is held out to evaluate with"):
        plan_requests(preferences, EvaluationSettings())
    captions = captions.assign(split=["train", "eval"])
    with pytest.raises(InputError, match="no user is in the split 'validation'"):
        plan_requests(Preferences(None, pd.DataFrame(), users, captions), EvaluationSettings(unseen_split="validation"))


def test_settings_that_leave_nobody_to_evaluate_with():
    with pytest.raises(ValueError, match=r"evaluation.unseen_split is test, but preferences.test_user_share is 0"):
        Settings(preferences=PreferenceSettings(test_user_share=0))
