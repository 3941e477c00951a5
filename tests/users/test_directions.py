"""Telling directions that are a person from directions that are noise."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppd.errors import InputError
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.directions import directions_of, held_out_reliabilities, n_reliable, reliabilities
from ppd.users.embeddings import VlmRef, write_rows

SIZES = np.array([6.0, 4.0, 2.0, 1.0])
BETWEEN = np.array([0.0, 0.8, 0.5, 0.0])  # share of each direction's variance that lies between people
DISCRIMINANT = EmbeddingSettings(directions="discriminant", components=2)
PRINCIPAL = EmbeddingSettings(directions="principal", components=2)


def scores(n_users: int, n_groups: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=4) * BETWEEN**0.5 + rng.normal(size=(n_groups, 4)) * (1 - BETWEEN) ** 0.5) * SIZES + 3
        for _ in range(n_users)
    ]


def embeddings(n_users: int, n_groups: int) -> dict[str, torch.Tensor]:
    """The same, turned so that no direction is an axis."""
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    return named([torch.from_numpy(groups @ turned).float() for groups in scores(n_users, n_groups)])


def named(users: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"user-{at}": groups for at, groups in enumerate(users)}


def test_a_column_is_as_reliable_as_it_was_made_however_large_it_is() -> None:
    found = reliabilities(scores(1000, 4))
    assert [row["mean"] for row in found] == pytest.approx(BETWEEN, abs=0.05)
    assert all(row["ci_low"] < row["mean"] < row["ci_high"] for row in found)


def test_people_with_one_group_say_nothing() -> None:
    people = scores(100, 3)
    assert reliabilities([*people, np.full((1, 4), 1e6)]) == reliabilities(people)


def test_principal_directions_come_by_their_size_and_discriminant_ones_by_what_is_between_people() -> None:
    """Of all directions, whatever number the settings keep."""
    people, shares = embeddings(1000, 4), SIZES**2 / (SIZES**2).sum()
    found = held_out_reliabilities(people, PRINCIPAL)
    assert [row["mean"] for row in found] == pytest.approx(BETWEEN, abs=0.06)
    assert [row["variance_share"] for row in found] == pytest.approx(shares, abs=0.03)
    found = held_out_reliabilities(people, DISCRIMINANT)
    assert [row["mean"] for row in found] == pytest.approx([0.8, 0.5, 0, 0], abs=0.06)
    assert [row["variance_share"] for row in found[:2]] == pytest.approx(shares[1:3], abs=0.03)


def test_directions_that_only_fit_the_people_they_were_found_on_are_seen_through() -> None:
    """Among 20 people and 64 directions of noise there are always some that seem to tell them apart."""
    noise = named(torch.randn(20, 3, 64, generator=torch.Generator().manual_seed(0)))
    assert np.mean([row["mean"] for row in held_out_reliabilities(noise, DISCRIMINANT)[:8]]) < 0.2


def test_it_does_not_matter_in_which_order_users_come() -> None:
    people = embeddings(50, 3)
    backwards = dict(reversed(people.items()))
    assert held_out_reliabilities(backwards, DISCRIMINANT) == held_out_reliabilities(people, DISCRIMINANT)


def test_two_people_with_two_groups_are_enough_to_measure_and_one_is_not() -> None:
    alone = torch.randn(1, 4)
    assert len(held_out_reliabilities(named([*torch.randn(2, 2, 4), alone, alone]), PRINCIPAL)) == 4
    with pytest.raises(InputError, match="fewer than two training users have two groups of choices"):
        held_out_reliabilities(named([torch.randn(2, 4), alone, alone]), PRINCIPAL)


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
        directions_of(log, [tmp_path / "embeddings.parquet"], DISCRIMINANT)
