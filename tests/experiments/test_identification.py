"""Finding people by their embeddings."""

from pathlib import Path

import numpy as np
import pytest

from ppd.experiments.identification import discriminant, disjoint_groups, hit_rates
from ppd.preferences.store import Preferences


def test_the_two_groups_of_a_person_share_no_caption(simulated: Path):
    log = Preferences.open(simulated / "preferences")
    chosen = disjoint_groups(log, log.users.user_id)
    assert chosen
    support = log.pairs[log.pairs.role == "support"]
    for user_id, (a, b) in chosen.items():
        theirs = support[support.user_id == user_id]
        first, second = (set(theirs.caption[theirs.support_group == group]) for group in (a, b))
        assert first and second and not first & second


def test_the_right_one_on_top_is_a_hit_and_scores_that_say_nothing_are_chance():
    assert hit_rates(np.eye(20))["top_1"]["mean"] == 1
    nothing = hit_rates(np.zeros((20, 20)))
    assert nothing["top_1"]["mean"] == pytest.approx(1 / 20) and nothing["top_4"]["mean"] == pytest.approx(4 / 20)
    assert hit_rates(1 - np.eye(20))["top_16"]["mean"] == 0  # everybody else first


def test_the_metric_finds_people_under_noise_that_is_larger_than_they_differ():
    rng = np.random.default_rng(0)
    noise = np.array([4.0] * 4 + [0.4] * 4)  # a person shows in the last four directions

    def people(n: int) -> list[np.ndarray]:
        return [rng.normal(size=8) + noise * rng.normal(size=(6, 8)) for _ in range(n)]

    metric = discriminant(people(200))
    first, second = (np.stack(groups) for groups in zip(*((p[0], p[1]) for p in people(50)), strict=True))

    def found(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return hit_rates(b @ a.T)["top_1"]["mean"]

    assert found(first @ metric, second @ metric) > 3 * found(first, second)
