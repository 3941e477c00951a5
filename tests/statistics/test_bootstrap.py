import numpy as np
import pytest

from ppd.statistics.bootstrap import Interval, clustered_mean, clustered_ratio


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


def test_a_ratio_is_one_of_means_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    ceiling = 2 + rng.normal(size=400)
    share = clustered_ratio(0.5 * ceiling + 0.1 * rng.normal(size=400), ceiling, np.repeat(np.arange(40), 10))
    assert share.mean == pytest.approx(0.5, abs=0.02)
    assert 0.4 < share.low < share.mean < share.high < 0.6


def test_another_unit_changes_the_mean_and_both_ends_alike() -> None:
    assert Interval(2.0, 1.0, 4.0).scaled(0.5) == Interval(1.0, 0.5, 2.0)
