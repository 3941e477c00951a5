"""Telling directions that are a person from directions that are noise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppd.errors import InputError
from ppd.preferences.store import Preferences
from ppd.users.directions import directions_of, n_reliable, reliabilities
from ppd.users.embeddings import VlmRef, write_rows

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


def test_what_to_keep_ends_at_the_first_direction_that_is_no_user() -> None:
    assert n_reliable([{"mean": mean} for mean in (0.6, 0.5, 0.1, 0.4)]) == 2
    assert n_reliable([{"mean": 0.6}]) == 1


def test_a_log_in_which_everybody_chose_once_cannot_say(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": ["ann", "ben"], "split": "train"})
    rows = [
        {"user_id": user, "support_group": 0, "key": user, "profile": "", "shape": [1, 3], "hidden": [1.0, 2.0, 3.0]}
        for user in users.user_id
    ]
    write_rows(tmp_path / "embeddings.parquet", rows, VlmRef("vlm", "1"))
    log = Preferences(None, pd.DataFrame(), users, pd.DataFrame())
    with pytest.raises(InputError, match="two groups of choices"):
        directions_of(log, [tmp_path / "embeddings.parquet"])
