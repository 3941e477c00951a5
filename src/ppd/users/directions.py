"""Which directions of the embeddings tell users apart, and which only one group of choices from another."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppd.errors import InputError
from ppd.preferences.splits import hash_keys
from ppd.preferences.store import Preferences
from ppd.settings import EmbeddingSettings
from ppd.users.embeddings import each_user
from ppd.users.whitening import Whitening, fit_on_users

Floats = NDArray[np.float64]
N_FOLDS = 5
N_RESAMPLES = 2000
RELIABLE = 0.3
"""Directions below this hold more of one group of choices than of the user, and whitening would make them as loud."""


def directions_of(
    preferences: Preferences, files: Iterable[Path], settings: EmbeddingSettings
) -> dict[int, list[dict[str, float]]]:
    """`held_out_reliabilities` of every row (layer) of the training users' embeddings, by its number in the files."""
    train = set(preferences.users.user_id[preferences.users.split == "train"])
    users = {user_id: hidden for user_id, hidden, _ in each_user(files) if user_id in train}
    n_rows = next(iter(users.values())).shape[1] if users else 0
    return {
        row: held_out_reliabilities({user_id: groups[:, row] for user_id, groups in users.items()}, settings)
        for row in range(n_rows)
    }


def held_out_reliabilities(users: Mapping[str, Tensor], settings: EmbeddingSettings) -> list[dict[str, float]]:
    """Of each direction of a whitening, in its order: its share of the embeddings' variance and its reliability.

    users: each user's embeddings [groups, D], each group from other choices. The directions are found on four fifths
    of the users and measured on the others, since among few users some direction always seems to tell them apart.
    A hash decides which fifth a user is in, so the order of users does not matter. Raises InputError where fewer than
    two users have two groups.
    """
    user_ids = sorted(users)
    keys = dict(zip(user_ids, hash_keys(0, "fold", user_ids).tolist(), strict=True))
    several = sorted((user_id for user_id in user_ids if len(users[user_id]) > 1), key=keys.__getitem__)
    if len(several) < 2:
        raise InputError(
            "fewer than two training users have two groups of choices, so nothing tells a user from a group",
            fix="Ingest more choices a user, or raise preferences.support_share",
        )
    scores: list[Floats] = []
    for fold in range(min(N_FOLDS, len(several))):
        measured = set(several[fold::N_FOLDS])
        whitening = _whitening([users[user_id] for user_id in user_ids if user_id not in measured], settings)
        scores += [whitening(users[user_id].unsqueeze(1))[:, 0].double().numpy() for user_id in sorted(measured)]
    everybody = [users[user_id] for user_id in user_ids]
    shares = _variance_shares(torch.cat(everybody).double(), _whitening(everybody, settings).matrix[0].double())
    return [
        {"variance_share": float(share)} | found for share, found in zip(shares, reliabilities(scores), strict=True)
    ]


def reliabilities(users: Sequence[Floats]) -> list[dict[str, float]]:
    """The reliability of each column of users' scores [groups, D], each group from other choices.

    It is the intraclass correlation (Shrout & Fleiss 1979): the share of the variance that is between users, 0 for pure
    noise (estimates scatter around it, so they can be negative), 1 when every group of a user says the same. Its
    interval is a 95 % bootstrap over users. Users with one group say nothing about it and are left out.
    """
    users = [groups for groups in users if len(groups) > 1]
    centre = np.concatenate(users).mean(axis=0)
    around_own = np.stack([((z - z.mean(axis=0)) ** 2).sum(axis=0) for z in users])
    around_all = np.stack([((z - centre) ** 2).sum(axis=0) for z in users])
    n = np.array([len(z) for z in users])

    def correlation(weights: Floats) -> Floats:
        """weights [..., users]: how often each user counts."""
        within = weights @ around_own / (weights @ (n - 1))[..., None]
        return np.asarray(1 - within / (weights @ around_all / (weights @ n)[..., None]))

    draws = np.random.default_rng(0).multinomial(len(users), np.full(len(users), 1 / len(users)), N_RESAMPLES)
    low, high = np.percentile(correlation(draws.astype(np.float64)), [2.5, 97.5], axis=0)
    columns = zip(correlation(np.ones(len(users))), low, high, strict=True)
    return [{"mean": float(mean), "ci_low": float(a), "ci_high": float(b)} for mean, a, b in columns]


def n_reliable(directions: Sequence[Mapping[str, float]]) -> int:
    """How many of the first directions are reliable, up to the first that is not: for `embedding.components`."""
    below = [at for at, row in enumerate(directions) if row["mean"] < RELIABLE]
    return below[0] if below else len(directions)


def _whitening(users: Sequence[Tensor], settings: EmbeddingSettings) -> Whitening:
    """With all its directions."""
    everything = settings.model_copy(update={"components": None})
    return fit_on_users([groups.unsqueeze(1) for groups in users], everything)


def _variance_shares(embeddings: Tensor, matrix: Tensor) -> Tensor:
    """How much of all the variance of embeddings [N, D] each column of `matrix` [D, C] explains by itself: [C]."""
    covariance = torch.cov(embeddings.T)
    explained = covariance @ matrix
    own = (matrix * explained).sum(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    return explained.square().sum(dim=0) / own / covariance.trace()
