"""Means with an interval that respects who was asked: comparisons of one user are not independent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """How often each cluster counts in each of the bootstrap's draws: [N_RESAMPLES, n_clusters]; one alone, once."""
    return np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=N_RESAMPLES)


def clustered_mean(values: NDArray[np.floating], clusters: NDArray[np.generic], seed: int = 0) -> Interval:
    """The mean of all values [N] and its percentile bootstrap interval, resampling whole clusters [N].

    Every draw weighs a comparison alike, so users with more comparisons count more, as they do in the mean itself.
    """
    return clustered_ratio(values, np.ones(len(values)), clusters, seed)


def crossed_mean(values: NDArray[np.floating], factors: Sequence[NDArray[np.generic]], seed: int = 0) -> Interval:
    """The mean of values [N] and its interval where several things were sampled at once: users, captions, trainings.

    factors: the level of each factor for each value, [N] each. The pigeonhole bootstrap (Owen 2007, Annals of Applied
    Statistics 1(2)): the levels of every factor are resampled by themselves, and a value counts as often as the product
    of its levels does. It errs on the side of a wider interval. A factor of one level is held fixed; with three levels,
    such as three trainings, its share is a rough guess.
    """
    return crossed_ratio(values, np.ones(len(values)), factors, seed)


def crossed_ratio(
    above: NDArray[np.floating], below: NDArray[np.floating], factors: Sequence[NDArray[np.generic]], seed: int = 0
) -> Interval:
    """mean(above) / mean(below), both [N], with the interval of `crossed_mean`."""
    levels = [np.unique(factor, return_inverse=True)[1] for factor in factors]
    shape = tuple(int(index.max()) + 1 for index in levels)
    cell = np.ravel_multi_index(tuple(levels), shape)
    sums = [
        _crossed_totals(np.bincount(cell, part.astype(float), int(np.prod(shape))).reshape(shape), seed)
        for part in (above, below)
    ]
    with np.errstate(invalid="ignore"):  # a draw may hold no value at all where few cells are filled
        low, high = np.nanquantile(sums[0] / sums[1], [0.025, 0.975])
    return Interval(float(above.mean() / below.mean()), float(low), float(high))


def _crossed_totals(cells: NDArray[Any], seed: int) -> NDArray[np.floating]:
    """The total of `cells`, one axis a factor, in each draw: [N_RESAMPLES]."""
    totals = np.tensordot(resampled_weights(cells.shape[0], seed), cells, axes=1)
    for axis, n in enumerate(cells.shape[1:], start=1):
        totals = np.einsum("rn,rn...->r...", resampled_weights(n, seed + axis), totals)
    return np.asarray(totals, float)


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
