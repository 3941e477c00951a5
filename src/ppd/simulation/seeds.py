"""Where the sticker world's random numbers come from: one named stream a purpose, so that no purpose sees another's.

Everything random about stickers and simulated people starts from `rng(purpose, ...)`. Two purposes, or two keys of one,
never share a scene or a person: their generators are seeded by independent hashes.
"""

import hashlib
from typing import Literal

import numpy as np

Purpose = Literal["pretrain", "log", "evaluation"]
"""pretrain: what the nano models are trained on; log: the simulated people's data; evaluation: held-out tests."""


def rng(purpose: Purpose, *key: str | int) -> np.random.Generator:
    """A generator that depends on the purpose and the key alone, e.g. rng("pretrain", "codec", seed, step)."""
    digest = hashlib.sha256(repr((purpose, *key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
