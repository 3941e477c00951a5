"""How often one method's pictures are preferred over another's, with an interval that respects who judged.

Comparisons of one person are not independent, so people are what the bootstrap draws.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

KEYS: tuple[str, ...] = ("method", "opponent", "users", "judge", "pairing")
"""What a win rate is of: two methods, seen or unseen people, who judged, and how the two images' seeds relate."""

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


def win_rates(comparisons: pd.DataFrame) -> list[dict[str, object]]:
    """`reports/win_rates.json`: one entry for each combination of `KEYS` among the comparisons, in order of appearance.

    comparisons has `KEYS`, user_id, outcome (1 the method's image is preferred, 0 the opponent's, 0.5 a tie, NaN no
    verdict, which counts in nothing) and gain_sd (what the person truly gains, in standard deviations of the base's
    utility to them; NaN where unknown).
    """
    entries: list[dict[str, object]] = []
    for key, group in comparisons[comparisons.outcome.notna()].groupby(list(KEYS), sort=False):
        users = group.user_id.to_numpy()
        rate = clustered_mean(group.outcome.to_numpy(dtype=float), users)
        known = group[group.gain_sd.notna()]
        gain = clustered_mean(known.gain_sd.to_numpy(dtype=float), known.user_id.to_numpy()) if len(known) else None
        entries.append(
            {
                **dict(zip(KEYS, key, strict=True)),
                "n_users": int(group.user_id.nunique()),
                "n_comparisons": len(group),
                "win_rate": rate.mean,
                "ci_low": rate.low,
                "ci_high": rate.high,
                "gain_sd": gain.mean if gain else None,
                "gain_sd_ci_low": gain.low if gain else None,
                "gain_sd_ci_high": gain.high if gain else None,
            }
        )
    return entries


PAIRED_BY = ["users", "judge", "pairing", "user_id", "caption", "method_seed", "opponent_seed"]


def paired_differences(comparisons: pd.DataFrame, method: str = "ppd", opponent: str = "base") -> dict[str, Interval]:
    """How much more often `method` beats `opponent` than each other method does, by users and judge.

    The two are compared within the same person, caption and pair of seeds, images of different seeds, so what is common
    to both cancels. Keys: "ppd-dpo.unseen.ground-truth". comparisons: as for `win_rates`, with the columns PAIRED_BY.
    """
    met = comparisons[(comparisons.opponent == opponent) & (comparisons.pairing == "independent")]
    met = met[met.outcome.notna()]
    ours = met[met.method == method].set_index(PAIRED_BY).outcome
    differences = {}
    for other, rows in met[met.method != method].groupby("method", sort=False):
        both = pd.concat([ours, rows.set_index(PAIRED_BY).outcome], axis=1, join="inner", keys=["ours", "theirs"])
        for (users, judge), part in both.groupby(level=["users", "judge"], sort=False):
            people = part.index.get_level_values("user_id").to_numpy()
            gap = (part.ours - part.theirs).to_numpy(dtype=float)
            differences[f"{method}-{other}.{users}.{judge}"] = clustered_mean(gap, people)
    return differences
