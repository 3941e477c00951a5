"""Means with an interval that respects who was asked: comparisons of one user are not independent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over people with its 95 % interval."""

    mean: float
    low: float
    high: float


def clustered_mean(values: NDArray[np.floating], clusters: NDArray[np.generic], seed: int = 0) -> Interval:
    """The mean of all values [N] and its percentile bootstrap interval, resampling whole clusters [N].

    Every draw weighs a comparison alike, so people with more comparisons count more, as they do in the mean itself.
    """
    _, index = np.unique(clusters, return_inverse=True)
    n_clusters = int(index.max()) + 1
    totals = np.bincount(index, weights=values, minlength=n_clusters)
    counts = np.bincount(index, minlength=n_clusters)
    weights = np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=N_RESAMPLES)
    means = (weights @ totals) / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
