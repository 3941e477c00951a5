"""Which principal directions of the embeddings tell users apart, and which only one group of choices from another."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppd.errors import InputError
from ppd.preferences.store import Preferences
from ppd.users.embeddings import each_user

Floats = NDArray[np.float64]
N_RESAMPLES = 2000
RELIABLE = 0.3
"""Directions below this hold more of one group of choices than of the user, and whitening would make them as loud."""


def reliabilities(users: Sequence[Floats]) -> list[dict[str, float]]:
    """Per principal direction, the largest variance first, its share of the variance and its reliability.

    users: each user's embeddings [groups, D], each group from other choices. Reliability is the intraclass
    correlation (Shrout & Fleiss 1979): the share of the variance along a direction that is between users, 0 for pure
    noise (estimates scatter around it, so they can be negative), 1 when every group of a user says the same. Its
    interval is a 95 % bootstrap over users. Users with one group say nothing about it and are left out.
    """
    users = [groups for groups in users if len(groups) > 1]
    together = np.concatenate(users)
    centre = together.mean(axis=0)
    spectrum, axes = np.linalg.eigh(np.cov(together.T))
    scores = [(groups - centre) @ axes[:, ::-1] for groups in users]
    around_own = np.stack([((z - z.mean(axis=0)) ** 2).sum(axis=0) for z in scores])
    around_all = np.stack([(z**2).sum(axis=0) for z in scores])
    n = np.array([len(z) for z in scores])

    def correlation(weights: Floats) -> Floats:
        """weights [..., users]: how often each user counts."""
        within = weights @ around_own / (weights @ (n - 1))[..., None]
        return np.asarray(1 - within / (weights @ around_all / (weights @ n)[..., None]))

    draws = np.random.default_rng(0).multinomial(len(users), np.full(len(users), 1 / len(users)), N_RESAMPLES)
    low, high = np.percentile(correlation(draws.astype(np.float64)), [2.5, 97.5], axis=0)
    columns = zip(spectrum[::-1] / spectrum.sum(), correlation(np.ones(len(users))), low, high, strict=True)
    return [
        {"variance_share": float(share), "mean": float(mean), "ci_low": float(a), "ci_high": float(b)}
        for share, mean, a, b in columns
    ]


def directions_of(preferences: Preferences, files: Iterable[Path]) -> dict[int, list[dict[str, float]]]:
    """The reliabilities of every row (layer) of the training users' embeddings, by the row's number in the files.

    Raises InputError where no training user has two groups of choices.
    """
    train = set(preferences.users.user_id[preferences.users.split == "train"])
    users = [hidden.double().numpy() for user_id, hidden, _ in each_user(files) if user_id in train]
    if not any(len(groups) > 1 for groups in users):
        raise InputError(
            "no training user has two groups of choices, so nothing tells a user from a group",
            fix="Ingest more choices a user, or raise preferences.support_share",
        )
    n_rows = users[0].shape[1]
    return {row: reliabilities([groups[:, row] for groups in users]) for row in range(n_rows)}


def n_reliable(directions: Sequence[Mapping[str, float]]) -> int:
    """How many of the first directions are reliable, up to the first that is not: for `embedding.components`."""
    below = [at for at, row in enumerate(directions) if row["mean"] < RELIABLE]
    return below[0] if below else len(directions)
