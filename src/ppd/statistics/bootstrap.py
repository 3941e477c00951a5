"""Means with an interval that respects who was asked: comparisons of one user are not independent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """In another unit: everything times a factor above 0."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor)

    def as_metrics(self, name: str) -> dict[str, float]:
        """Under dotted names, as in metrics.json: `name`, `name.ci_low`, `name.ci_high`."""
        return {name: self.mean, f"{name}.ci_low": self.low, f"{name}.ci_high": self.high}

    def as_row(self) -> dict[str, float]:
        """As a cell of a result file: mean, ci_low, ci_high."""
        return {"mean": self.mean, "ci_low": self.low, "ci_high": self.high}


def resampled_weights(n_clusters: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each cluster counts in each of the bootstrap's draws: [N_RESAMPLES, n_clusters]."""
    return np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=N_RESAMPLES)


def clustered_mean(values: NDArray[np.floating], clusters: NDArray[np.generic], seed: int = 0) -> Interval:
    """The mean of all values [N] and its percentile bootstrap interval, resampling whole clusters [N].

    Every draw weighs a comparison alike, so users with more comparisons count more, as they do in the mean itself.
    """
    return clustered_ratio(values, np.ones(len(values)), clusters, seed)


def clustered_ratio(
    above: NDArray[np.floating], below: NDArray[np.floating], clusters: NDArray[np.generic], seed: int = 0
) -> Interval:
    """mean(above) / mean(below), both [N], and its percentile bootstrap interval, resampling whole clusters [N]."""
    _, index = np.unique(clusters, return_inverse=True)
    n_clusters = int(index.max()) + 1
    weights = resampled_weights(n_clusters, seed)
    totals, counts = (np.bincount(index, weights=part, minlength=n_clusters) for part in (above, below))
    low, high = np.quantile((weights @ totals) / (weights @ counts), [0.025, 0.975])
    return Interval(float(above.mean() / below.mean()), float(low), float(high))
