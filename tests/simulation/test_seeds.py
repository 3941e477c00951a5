"""Purposes must not see each other's random numbers: evaluation would measure what training has seen."""

import itertools

import numpy as np

from ppd.simulation import seeds
from ppd.simulation.world import sample_scenes


def test_the_same_key_gives_the_same_numbers() -> None:
    first, second = (seeds.rng("pretrain", "codec", 0, 7).integers(2**62, size=8) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_purposes_and_keys_share_no_scene() -> None:
    streams = [
        seeds.rng("pretrain", "codec", 0, 1),
        seeds.rng("pretrain", "codec", 0, 2),
        seeds.rng("pretrain", "codec", 1, 1),
        seeds.rng("pretrain", "codec", 0, "1"),
        seeds.rng("log", "codec", 0, 1),
        seeds.rng("evaluation", "codec", 0, 1),
    ]
    drawn = [set(sample_scenes(rng, 1000).seed.tolist()) for rng in streams]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(drawn, 2))
