"""Telling directions that are a person from directions that are noise."""

import numpy as np
import pytest

from ppd.experiments.directions import reliabilities

SIZES = np.array([6.0, 4.0, 2.0, 1.0])
BETWEEN = np.array([0.0, 0.8, 0.5, 0.0])  # share of each direction's variance that lies between people


def embeddings(n_users: int, n_groups: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    return [
        (rng.normal(size=4) * BETWEEN**0.5 + rng.normal(size=(n_groups, 4)) * (1 - BETWEEN) ** 0.5) * SIZES @ turned + 3
        for _ in range(n_users)
    ]


def test_each_direction_is_as_reliable_as_it_was_made_however_large_it_is():
    found = reliabilities(embeddings(1000, 4))
    assert [row["mean"] for row in found] == pytest.approx(BETWEEN, abs=0.05)
    assert [row["variance_share"] for row in found] == pytest.approx(SIZES**2 / (SIZES**2).sum(), abs=0.03)
    assert all(row["ci_low"] < row["mean"] < row["ci_high"] for row in found)


def test_people_with_one_group_say_nothing():
    people = embeddings(100, 3)
    assert reliabilities([*people, np.full((1, 4), 1e6)]) == reliabilities(people)
