"""Types of user are found from choices alone, and four choices place somebody new among them."""

import numpy as np

from ppd.experiments.user_types import UserTypes

rng = np.random.default_rng(0)
TASTES = 4 * np.eye(4, 6)
"""Four types of user, each likes one of six features."""


def choices(of: int, n: int) -> np.ndarray:
    """φ(chosen) − φ(rejected) of n choices by a user of a type: [n, 6]."""
    pairs = rng.normal(size=(n, 6))
    first = rng.random(n) < 1 / (1 + np.exp(-pairs @ TASTES[of]))
    return np.where(first[:, None], pairs, -pairs)


def test_types_are_found_and_four_choices_of_somebody_new_say_which_they_are() -> None:
    types = UserTypes.fit([choices(i % 4, 30) for i in range(80)], 4)
    learned = types.weights @ types.directions.T
    found = {int(np.abs(row[:4]).argmax()) for row in learned}
    assert found == {0, 1, 2, 3}, "each type likes another feature"
    new = [choices(i % 4, 4) for i in range(200)]
    belonging = types.describe(new)
    np.testing.assert_allclose(belonging.sum(axis=1), 1)
    liked = learned[:, :4].argmax(axis=1)[belonging.argmax(axis=1)]
    assert (liked == np.arange(200) % 4).mean() > 0.6
    asked = np.concatenate([choices(i % 4, 1) for i in range(200)])
    own = types.predict(belonging, asked)
    others = types.predict(np.roll(belonging, 1, axis=0), asked)
    assert (own > 0.5).mean() > 0.7 > 0.62 > (others > 0.5).mean()


def test_without_choices_a_user_is_as_likely_of_a_type_as_anybody() -> None:
    types = UserTypes.fit([choices(i % 2, 10) for i in range(20)], 2)
    np.testing.assert_allclose(types.describe([np.zeros((0, 6))])[0], types.share / types.share.sum())


def test_the_same_choices_give_the_same_types() -> None:
    users = [choices(i % 4, 10) for i in range(12)]
    first, again = UserTypes.fit(users, 3), UserTypes.fit(users, 3)
    np.testing.assert_array_equal(first.weights, again.weights)
