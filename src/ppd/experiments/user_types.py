"""Users as weights over a few types of user, learned from choices alone: the embedding that needs no language model.

After PIPE (Google, ICML 2026 workshop), which describes users by logistic regression over types instead of by a
vision-language model; no code of it is public, so this follows its abstract. A type is a Bradley-Terry model over image
features, p(a over b | type k) = σ(w_k·(φ_a − φ_b)); the types and how common each is are fitted by
expectation-maximisation over the training users' choices. Four pairs of a new user give their weights by Bayes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.special import expit, logsumexp

Floats = NDArray[np.float64]
N_ROUNDS = 30
N_NEWTON = 3
N_DIRECTIONS = 32
RIDGE = 1.0
"""A Gaussian prior of variance 1 on each weight, over features of variance 1."""


@dataclass(frozen=True)
class UserTypes:
    """K types: weights [K, d] over the principal directions [D, d] of differences, and how common each is [K]."""

    weights: Floats
    share: Floats
    directions: Floats

    @staticmethod
    def fit(users: Sequence[Floats], n_types: int, seed: int = 0) -> "UserTypes":
        """From each training user's choices, φ(chosen) − φ(rejected): [choices, D] of each. Types begin as k-means."""
        together = np.concatenate(users)
        spectrum, axes = np.linalg.eigh(together.T @ together / len(together))
        kept = np.argsort(-spectrum)[:N_DIRECTIONS]
        directions = axes[:, kept] / np.sqrt(spectrum[kept] + 1e-12)
        users = [choices @ directions for choices in users]
        everything, of = np.concatenate(users), np.repeat(np.arange(len(users)), [len(c) for c in users])
        means = np.stack([choices.mean(axis=0) for choices in users])
        _, nearest = kmeans2(means, n_types, minit="++", rng=np.random.default_rng(seed))
        belonging = 0.9 * np.eye(n_types)[nearest] + 0.1 / n_types
        weights, share = np.zeros((n_types, everything.shape[1])), belonging.mean(axis=0)
        for _ in range(N_ROUNDS):
            weights = np.stack([_regress(everything, belonging[of, k], weights[k]) for k in range(n_types)])
            share = (belonging.sum(axis=0) + 1) / (len(users) + n_types)
            belonging = np.exp(_log_belonging(users, weights, share))
        return UserTypes(weights, share, directions)

    def describe(self, groups: Sequence[Floats]) -> Floats:
        """p(type | these choices) of each group of choices [choices, D]: [N, K]."""
        return np.asarray(
            np.exp(_log_belonging([group @ self.directions for group in groups], self.weights, self.share))
        )

    def predict(self, belonging: Floats, difference: Floats) -> Floats:
        """p(first over second) for users of these weights over types [N, K] and differences of features [N, D]: [N]."""
        return np.asarray((belonging * expit(difference @ self.directions @ self.weights.T)).sum(axis=1))


def _log_belonging(users: Sequence[Floats], weights: Floats, share: Floats) -> Floats:
    log_p = np.log(share) + np.stack([-np.logaddexp(0, -choices @ weights.T).sum(axis=0) for choices in users])
    return np.asarray(log_p - logsumexp(log_p, axis=1, keepdims=True))


def _regress(differences: Floats, counts: Floats, start: Floats) -> Floats:
    """Weights [D] of a logistic regression without intercept where every answer is "the first": Newton's method."""
    weights = start
    for _ in range(N_NEWTON):
        p = expit(differences @ weights)
        gradient = differences.T @ (counts * (1 - p)) - RIDGE * weights
        curvature = (differences.T * (counts * p * (1 - p))) @ differences + RIDGE * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return np.asarray(weights)
