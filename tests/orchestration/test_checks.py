"""Each check passes on what is right and fails on what it is there for."""

import json
import math
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.checks import (
    CHECKS,
    beats_the_base,
    embeddings_are_sound,
    judge_is_consistent,
    no_worse_than_accepted,
    starts_at_ln_2,
)


def write_rates(folder, win_rate, ci_low, ci_high, **changes):
    entry = {"method": "ppd", "opponent": "base", "users": "unseen", "judge": "vlm", "pairing": "independent"}
    entry |= {"win_rate": win_rate, "ci_low": ci_low, "ci_high": ci_high} | changes
    other = entry | {"pairing": "same-seed", "win_rate": 0.1, "ci_low": 0.0, "ci_high": 0.2}  # must not count
    path = folder / "win_rates.json"
    path.write_text(json.dumps([other, entry]))
    return path


@pytest.mark.parametrize(
    ("rate", "low", "passed", "warn"),
    [(0.7, 0.6, True, True), (0.58, 0.52, False, True), (0.62, 0.49, False, False), (0.7, math.nan, False, False)],
    ids=["clear", "under the goal: a warning", "perhaps chance: an error", "no interval: an error"],
)
def test_win_rate_over_base(tmp_path, rate, low, passed, warn):
    found = beats_the_base(write_rates(tmp_path, rate, low, 0.8))
    assert (found.passed, found.warn) == (passed, warn)
    assert found.numbers["win rate (vlm)"] == rate


def test_no_headline_at_all_is_an_error(tmp_path):
    found = beats_the_base(write_rates(tmp_path, 0.9, 0.8, 1.0, users="seen"))
    assert (found.passed, found.warn) == (False, False)


AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@b"]


@pytest.fixture
def accepted(tmp_path):
    """A repository in which a win rate of 0.7 was accepted."""
    git(tmp_path, "init", "-q")
    write_rates(tmp_path, 0.7, 0.65, 0.75)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "accepted")
    return tmp_path


def git(folder, *arguments):
    subprocess.run(["git", *AUTHOR, *arguments], cwd=folder, check=True)


@pytest.mark.parametrize("detached", [False, True])
def test_a_run_is_held_against_the_last_committed_one(accepted, detached):
    if detached:
        git(accepted, "checkout", "-q", "--detach")
    assert no_worse_than_accepted(write_rates(accepted, 0.66, 0.6, 0.71)).passed
    assert not no_worse_than_accepted(write_rates(accepted, 0.6, 0.5, 0.69)).passed
    assert not no_worse_than_accepted(write_rates(accepted, 0.6, math.nan, math.nan)).passed


def test_in_a_shallow_clone_too(accepted, tmp_path_factory):
    clone = tmp_path_factory.mktemp("clone") / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{accepted}", clone], check=True)
    assert not no_worse_than_accepted(write_rates(clone, 0.6, 0.5, 0.69)).passed


def test_where_nothing_was_accepted_yet_nothing_is_worse(tmp_path):
    git(tmp_path, "init", "-q")
    path = write_rates(tmp_path, 0.7, 0.65, 0.75)
    assert no_worse_than_accepted(path).numbers == {"accepted": "none committed yet"}
    git(tmp_path, "commit", "-qm", "another file", "--allow-empty")
    assert no_worse_than_accepted(path).passed


def test_when_git_refuses_it_does_not_pass(accepted, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container: dubious ownership
    found = no_worse_than_accepted(accepted / "win_rates.json")
    assert (found.passed, found.warn) == (False, True)
    assert "ownership" in found.numbers["accepted"]


def test_outside_of_a_repository_it_does_not_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = no_worse_than_accepted(write_rates(tmp_path, 0.7, 0.65, 0.75))
    assert (found.passed, found.warn) == (False, True)


def test_what_cannot_be_compared_does_not_pass(accepted):
    path = write_rates(accepted, 0.9, 0.8, 1.0, judge="ground truth")
    assert no_worse_than_accepted(path).numbers["not comparable"] == ["vlm"]
    assert not no_worse_than_accepted(path).passed
    path.write_text("[]")
    git(accepted, "commit", "-qam", "nothing accepted")
    assert not no_worse_than_accepted(write_rates(accepted, 0.9, 0.8, 1.0)).passed
    path.write_text("half of a fi")
    git(accepted, "commit", "-qam", "broken")
    assert not no_worse_than_accepted(write_rates(accepted, 0.9, 0.8, 1.0)).passed


@pytest.mark.parametrize(
    ("spoil", "passed"),
    [(lambda x: x, True), (lambda x: x * 0 + 1, False), (lambda x: np.where(x > 2, np.nan, x), False)],
    ids=["sound", "collapsed", "not finite"],
)
def test_embeddings(tmp_path, spoil, passed):
    rng = np.random.default_rng(0)
    for shard in ("s-00", "s-01"):
        hidden = spoil(rng.normal(size=(60, 16)))
        (tmp_path / shard).mkdir()
        pd.DataFrame({"user_id": "u", "hidden": list(hidden)}).to_parquet(tmp_path / shard / "embeddings.parquet")
    assert embeddings_are_sound(tmp_path).passed is passed


def test_a_shard_without_people_is_passed_over_and_no_people_at_all_are_a_failure(tmp_path):
    rng = np.random.default_rng(0)
    schema = pa.schema([("user_id", pa.string()), ("hidden", pa.list_(pa.float32()))])
    for shard, n in (("s-00", 5), ("s-01", 0), ("s-02", 4)):
        rows = [{"user_id": f"{shard}{i}", "hidden": rng.normal(size=8).astype("float32")} for i in range(n)]
        (tmp_path / shard).mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / shard / "embeddings.parquet")
    found = embeddings_are_sound(tmp_path)
    assert found.passed
    assert found.numbers["embeddings"] == 9
    for shard in ("s-00", "s-02"):
        (tmp_path / shard / "embeddings.parquet").unlink()
    assert not embeddings_are_sound(tmp_path).passed


@pytest.mark.parametrize(("first", "passed"), [(math.log(2), True), (3.48, False)])
def test_the_first_loss(tmp_path, first, passed):
    pd.DataFrame({"step": [0, 1], "loss": [first, 0.1]}).to_csv(tmp_path / "curve.csv", index=False)
    assert starts_at_ln_2(tmp_path).passed is passed


@pytest.mark.parametrize(("consistency", "passed"), [(0.87, True), (0.6, False)])
def test_the_judge(tmp_path, consistency, passed):
    (tmp_path / "metrics.json").write_text(json.dumps({"judge.consistency.verdicts": consistency}))
    found = judge_is_consistent(tmp_path / "metrics.json")
    assert (found.passed, found.warn) == (passed, True)


@pytest.mark.parametrize("metrics", [{}, {"judge.void.verdicts": 1.0, "judge.void.choices": 1.0}])
def test_a_judge_that_said_nothing_is_judged_too(tmp_path, metrics):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    found = judge_is_consistent(tmp_path / "metrics.json")
    assert not found.passed
    assert found.numbers["consistency"] == "unknown: no comparison has a verdict"
    assert found.numbers.get("void verdicts", 1.0) == 1.0
    (tmp_path / "win_rates.json").write_text("[]")
    assert not beats_the_base(tmp_path / "win_rates.json").passed
    assert "no comparison" in beats_the_base(tmp_path / "win_rates.json").numbers["win rate"]
    git(tmp_path, "init", "-q")
    assert no_worse_than_accepted(tmp_path / "win_rates.json").passed, "nothing was accepted yet"


def test_what_the_judge_abstained_from_is_told(tmp_path):
    values = {"judge.consistency.verdicts": 0.9, "judge.void.verdicts": 0.25, "judge.void.choices": 0.5}
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    found = judge_is_consistent(tmp_path / "metrics.json")
    assert found.numbers == {"consistency": 0.9, "void verdicts": 0.25, "void answers about real choices": 0.5}


def test_every_check_belongs_to_an_asset_of_the_repository():
    from orchestration.definitions import defs

    keys = {tuple(key.path) for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert {key for key, _ in CHECKS} <= keys
