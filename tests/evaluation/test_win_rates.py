import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.win_rates import headline, paired_differences, win_rates
from ppd.statistics.bootstrap import clustered_mean, crossed_mean


def test_win_rates_are_grouped_and_ties_count_half() -> None:
    rows = pd.DataFrame(
        {
            "method": "ppd",
            "opponent": ["base"] * 4 + ["dpo"] * 2,
            "users": "unseen",
            "judge": ["ground-truth"] * 4 + ["vlm"] * 2,
            "pairing": "independent",
            "user_id": ["a", "a", "b", "b", "a", "b"],
            "caption": ["x", "y", "x", "y", "x", "x"],
            "outcome": [1, 0.5, 1, 0, 1, 1],
            "gain_sd": [1.0, 0.0, 2.0, -1.0, np.nan, np.nan],
        }
    )
    base, dpo = win_rates(rows)
    assert base["win_rate"] == pytest.approx(0.625)
    assert base["n_comparisons"] == 4
    assert base["n_users"] == 2
    assert base["gain_sd"] == pytest.approx(0.5)
    assert dpo["opponent"] == "dpo"
    assert dpo["win_rate"] == 1
    assert dpo["gain_sd"] is None


def test_entries_come_in_the_order_of_the_comparisons_with_the_intervals_of_users_and_captions() -> None:
    rng = np.random.default_rng(0)
    users, captions = (index.ravel() for index in np.indices((6, 4)))
    one = pd.DataFrame({"user_id": users, "caption": captions, "pairing": "independent"})
    one = one.assign(outcome=rng.integers(3, size=24) / 2, gain_sd=rng.normal(size=24))
    keys = [("sft", "base", "unseen", "vlm"), ("ppd", "dpo", "seen", "vlm"), ("ppd", "base", "unseen", "ground-truth")]
    names = ["method", "opponent", "users", "judge"]
    table = pd.concat([one.assign(**dict(zip(names, key, strict=True))) for key in keys])
    entries = win_rates(table)
    assert [tuple(entry[name] for name in names) for entry in entries] == keys
    rate, gain = (crossed_mean(one[column].to_numpy(), [users, captions]) for column in ("outcome", "gain_sd"))
    numbers = ["win_rate", "ci_low", "ci_high", "gain_sd", "gain_sd_ci_low", "gain_sd_ci_high"]
    for entry in entries:
        found = [entry[name] for name in numbers]
        assert found == pytest.approx([rate.mean, rate.low, rate.high, gain.mean, gain.low, gain.high])
    assert headline(entries) == entries[2]
    assert headline(entries[:2]) is None


def test_differences_are_of_the_same_comparison_and_in_the_order_of_the_methods() -> None:
    keys = {"opponent": "base", "pairing": "independent", "caption": "a fox", "method_seed": 0, "opponent_seed": 1}
    rates = {("sft", "unseen"): [0.5, 0.0], ("dpo", "unseen"): [1.0, 0.0], ("ppd", "unseen"): [1.0, 0.5]}
    rates |= {("sft", "seen"): [0.0, 0.0], ("ppd", "seen"): [1.0, 1.0]}
    rows = [
        {**keys, "method": method, "users": users, "judge": "vlm", "user_id": user, "outcome": outcome}
        for (method, users), outcomes in rates.items()
        for user, outcome in zip(("ann", "ben"), outcomes, strict=True)
    ]
    others = [{**row, "opponent": "dpo", "outcome": 0.0} for row in rows]
    same_noise = [{**row, "pairing": "same-seed", "outcome": 0.0} for row in rows]
    void = {**rows[0], "user_id": "cat", "outcome": np.nan}
    found = paired_differences(pd.DataFrame([*others, *rows, *same_noise, void]))
    assert list(found) == ["ppd-sft.unseen.vlm", "ppd-sft.seen.vlm", "ppd-dpo.unseen.vlm"]
    assert [difference.mean for difference in found.values()] == [0.5, 1.0, 0.25]
    assert (found["ppd-sft.unseen.vlm"].low, found["ppd-sft.unseen.vlm"].high) == (0.5, 0.5)
    assert (found["ppd-dpo.unseen.vlm"].low, found["ppd-dpo.unseen.vlm"].high) == (0.0, 0.5)


def test_trainings_that_differ_widen_the_interval() -> None:
    users, captions, seeds = (index.ravel() for index in np.indices((30, 5, 3)))
    rows = pd.DataFrame({"user_id": users, "caption": captions, "training_seed": seeds, "gain_sd": np.nan})
    rows = rows.assign(method="ppd", opponent="base", users="unseen", judge="vlm", pairing="independent")
    (alike,) = win_rates(rows.assign(outcome=(users % 2).astype(float)))
    (differing,) = win_rates(rows.assign(outcome=np.where(seeds == 0, 1.0, users % 2)))
    assert differing["ci_high"] - differing["ci_low"] > 1.5 * (alike["ci_high"] - alike["ci_low"])
    (fixed,) = win_rates(rows.assign(outcome=np.where(seeds == 0, 1.0, users % 2)).drop(columns="training_seed"))
    assert fixed["ci_high"] - fixed["ci_low"] < 0.7 * (differing["ci_high"] - differing["ci_low"])


def test_a_paired_difference_cancels_what_both_share() -> None:
    """Hard and easy people move both methods alike: the difference is known far better than either rate."""
    rng = np.random.default_rng(0)
    ease = np.repeat(rng.random(40), 8)
    keys = {"opponent": "base", "users": "unseen", "judge": "ground-truth", "pairing": "independent"}
    keys |= {"user_id": np.repeat(np.arange(40), 8), "caption": np.tile(list("abcdefgh"), 40)}
    keys |= {"method_seed": 0, "opponent_seed": 1}
    dpo = pd.DataFrame({**keys, "method": "dpo", "outcome": ease})
    ppd = pd.DataFrame({**keys, "method": "ppd", "outcome": ease + 0.1})
    gone = ppd.iloc[::-1].iloc[:-3]  # another order, and some that only one of them has
    (name, difference), *_ = paired_differences(pd.concat([dpo, gone])).items()
    assert name == "ppd-dpo.unseen.ground-truth"
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-6
    assert clustered_mean(ease, keys["user_id"]).high - clustered_mean(ease, keys["user_id"]).low > 0.1
