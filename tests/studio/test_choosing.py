"""Which pair comes next."""

import numpy as np
import pytest

from ppd.studio.choosing import INDIFFERENCE, SCALE, ActiveChooser, Asked, prior
from ppd.studio.pool import Pool

N_CAPTIONS, PAIRS = 10, 6


@pytest.fixture
def pool() -> Pool:
    rng = np.random.default_rng(1)
    n = N_CAPTIONS * PAIRS
    captions = tuple(f"caption {at % N_CAPTIONS}" for at in range(n))
    return Pool(
        captions, tuple(f"x{at}" for at in range(n)), tuple(f"y{at}" for at in range(n)), rng.normal(size=(n, 3))
    )


def chances(pool: Pool, u: np.ndarray) -> np.ndarray:
    """P(first), P(second), P(skip) of each pair for one embedding [3, P], as the module's docstring writes them."""
    g = SCALE * pool.directions @ u
    opinion = 1 - np.exp(-((g / INDIFFERENCE) ** 2))
    return np.stack([opinion / (1 + np.exp(-g)), opinion / (1 + np.exp(g)), 1 - opinion])


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=0)


def test_the_gain_is_the_mutual_information_of_answer_and_embedding(pool: Pool) -> None:
    particles = prior([], 3)[:200]
    asked = [Asked(3, "first"), Asked(11, "skip"), Asked(25, "second")]
    each = np.stack([chances(pool, u) for u in particles.astype(float)])  # [M, 3, P]
    weights = each[:, 0, 3] * each[:, 2, 11] * each[:, 1, 25]
    weights /= weights.sum()
    mean = np.einsum("m,map->ap", weights, each)
    expected = entropy(mean) - np.einsum("m,mp->p", weights, np.stack([entropy(one) for one in each]))
    chooser = ActiveChooser(pool, particles)
    np.testing.assert_allclose(chooser.gain(asked), expected, atol=2e-5)
    shown = {pool.captions[one.pair] for one in asked}
    best = max((gain, at) for at, gain in enumerate(expected) if pool.captions[at] not in shown)[1]
    following = chooser(asked)
    assert following is not None and (following.pair, following.how) == (best, "active")


def test_the_first_two_pairs_are_the_same_for_everybody(pool: Pool) -> None:
    chooser = ActiveChooser(pool, prior([], 3))
    first = chooser([])
    assert first is not None and first.how == "fixed"
    seconds = [chooser([Asked(first.pair, outcome)]) for outcome in ("first", "second", "skip")]
    assert len(set(seconds)) == 1
    assert seconds[0] is not None and seconds[0].how == "fixed"
    assert pool.captions[seconds[0].pair] != pool.captions[first.pair]
    u, v = pool.directions[first.pair], pool.directions[seconds[0].pair]
    assert abs(u @ v) < 0.5 * np.linalg.norm(u) * np.linalg.norm(v)  # the second asks for something else


def test_no_pair_comes_twice_and_no_caption_until_all_have_come(pool: Pool) -> None:
    chooser = ActiveChooser(pool, prior([], 3))
    asked: list[Asked] = []
    while (following := chooser(asked)) is not None:
        asked.append(Asked(following.pair, "skip"))
    pairs = [one.pair for one in asked]
    assert len(set(pairs)) == len(pairs) == len(pool)
    assert len({pool.captions[pair] for pair in pairs[:N_CAPTIONS]}) == N_CAPTIONS


def test_what_is_believed_moves_to_where_the_answers_point(pool: Pool) -> None:
    particles = prior([], 3)
    chooser = ActiveChooser(pool, particles)
    towards = chooser.belief([Asked(7, "first")]) @ particles
    away = chooser.belief([Asked(7, "second")]) @ particles
    assert towards @ pool.directions[7] > 0.5 and away @ pool.directions[7] < -0.5


def test_chosen_pairs_find_an_embedding_sooner_than_random_ones(pool: Pool) -> None:
    particles = prior([], 3)
    chooser = ActiveChooser(pool, particles)
    rng = np.random.default_rng(0)
    cosines: dict[bool, list[float]] = {True: [], False: []}
    for u in rng.normal(size=(60, 3)):
        each = chances(pool, u)
        for active, found in cosines.items():
            asked: list[Asked] = []
            while sum(one.outcome != "skip" for one in asked) < 4 and len(asked) < 30:
                following = chooser(asked) if active else None
                pair = following.pair if following else int(rng.integers(len(pool)))
                p = each[:, pair] / each[:, pair].sum()
                asked.append(Asked(pair, rng.choice(["first", "second", "skip"], p=p)))
            believed = chooser.belief(asked) @ particles
            found.append(float(believed @ u / np.linalg.norm(believed) / np.linalg.norm(u)))
    assert np.mean(cosines[True]) > np.mean(cosines[False]) + 0.05


def test_where_enough_people_are_known_they_are_what_is_believed_at_first() -> None:
    known = list(np.random.default_rng(0).normal(size=(600, 5)))
    assert {tuple(row) for row in prior(known, 5).tolist()} == {tuple(row.astype(np.float32).tolist()) for row in known}
    assert prior(known[:10], 5).shape == (4096, 5)
