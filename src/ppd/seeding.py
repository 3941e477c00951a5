"""Random numbers that depend on what they are for, and on nothing else."""

import hashlib

import torch


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by `key`, so that a draw depends on neither the device, the batch nor what came before.

    Every random number of training and sampling comes from one of these: a run's position is its whole random state.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
