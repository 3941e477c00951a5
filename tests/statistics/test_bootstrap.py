import numpy as np
import pytest

from ppd.statistics.bootstrap import (
    Interval,
    clustered_mean,
    clustered_ratio,
    crossed_mean,
    crossed_ratio,
    resampled_weights,
)


def test_every_draw_is_of_as_many_clusters_as_there_are() -> None:
    weights = resampled_weights(5)
    assert weights.shape == (10_000, 5)
    assert (weights.sum(axis=1) == 5).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)
    assert (resampled_weights(1) == 1).all(), "one alone is held fixed"


def test_an_interval_is_that_of_the_ratios_of_all_draws() -> None:
    """Here value by value; three factors, of which one has a single level."""
    rng = np.random.default_rng(2)
    above, below = rng.normal(size=60), rng.uniform(1, 2, size=60)
    factors = [rng.integers(4, size=60), np.zeros(60, int), rng.integers(3, size=60)]
    counts = np.ones((10_000, 60))
    for place, factor in enumerate(factors):
        counts *= resampled_weights(factor.max() + 1, 7 + place)[:, factor]
    low, high = np.quantile((counts @ above) / (counts @ below), [0.025, 0.975])
    found = crossed_ratio(above, below, factors, seed=7)
    assert (found.mean, found.low, found.high) == pytest.approx((above.mean() / below.mean(), low, high))


def test_without_a_seed_every_interval_is_that_of_seed_0() -> None:
    values, clusters = np.random.default_rng(3).uniform(1, 2, size=60), np.arange(60) // 2
    for alone, seeded in (
        (clustered_mean(values, clusters), clustered_mean(values, clusters, seed=0)),
        (clustered_ratio(values, values + 1, clusters), clustered_ratio(values, values + 1, clusters, seed=0)),
        (crossed_mean(values, [clusters]), crossed_mean(values, [clusters], seed=0)),
        (crossed_ratio(values, values + 1, [clusters]), crossed_ratio(values, values + 1, [clusters], seed=0)),
    ):
        assert alone == seeded
        assert alone.low < alone.mean < alone.high
    assert (resampled_weights(5) == resampled_weights(5, seed=0)).all()


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """People differ, and answers of one person agree: an interval over single answers would cover far less."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        person = rng.beta(3, 2, size=40)
        answers = (rng.random((40, 12)) < person[:, None]).astype(float).ravel()
        interval = clustered_mean(answers, np.repeat(np.arange(40), 12), seed=trial)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_answers_of_one_person_count_as_one_witness() -> None:
    one_voice = clustered_mean(np.repeat([1.0, 0.0], 100), np.repeat([0, 1], 100))
    assert one_voice.low == 0
    assert one_voice.high == 1
    crowd = clustered_mean(np.repeat([1.0, 0.0], 100), np.arange(200))
    assert crowd.high - crowd.low < 0.2


def test_an_interval_over_users_and_captions_covers_the_truth_at_least_as_often_as_it_says() -> None:
    """Both differ: an interval over users alone would take the captions for all there are, and cover far less."""
    rng = np.random.default_rng(0)
    covered = {"crossed": 0, "users alone": 0}
    users, captions = (index.ravel() for index in np.indices((30, 8)))
    for trial in range(60):
        values = rng.normal(size=30)[users] + rng.normal(size=8)[captions] + rng.normal(size=240)
        found = {
            "crossed": crossed_mean(values, [users, captions], seed=trial),
            "users alone": clustered_mean(values, users, seed=trial),
        }
        for name, interval in found.items():
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["crossed"] / 60 >= 0.85
    assert covered["users alone"] / 60 <= 0.75


def test_with_one_factor_and_others_held_fixed_it_is_the_clustered_one() -> None:
    rng = np.random.default_rng(1)
    users, values = np.repeat(np.arange(20), 6), rng.normal(size=120)
    alone = clustered_mean(values, users)
    crossed = crossed_mean(values, [users, np.zeros(120)])
    assert (crossed.mean, crossed.low, crossed.high) == pytest.approx((alone.mean, alone.low, alone.high))
    ratio = crossed_ratio(2 * values, values, [users, np.arange(120) % 3])
    assert (ratio.low, ratio.high) == pytest.approx((2, 2))


def test_a_ratio_is_one_of_means_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    ceiling = 2 + rng.normal(size=400)
    share = clustered_ratio(0.5 * ceiling + 0.1 * rng.normal(size=400), ceiling, np.repeat(np.arange(40), 10))
    assert share.mean == pytest.approx(0.5, abs=0.02)
    assert 0.4 < share.low < share.mean < share.high < 0.6


def test_another_unit_changes_the_mean_and_both_ends_alike() -> None:
    assert Interval(2.0, 1.0, 4.0).scaled(0.5) == Interval(1.0, 0.5, 2.0)
    assert Interval(2.0, 1.0, 4.0).as_metrics("gain") == {"gain": 2.0, "gain.ci_low": 1.0, "gain.ci_high": 4.0}
    assert Interval(2.0, 1.0, 4.0).as_row() == {"mean": 2.0, "ci_low": 1.0, "ci_high": 4.0}
