"""How often one method's pictures are preferred over another's, with an interval that respects what was sampled.

Neither comparisons of one user are independent, nor those on one caption, nor those of one training: the bootstrap
resamples the levels of all three (`ppd.statistics.bootstrap.crossed_mean`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.statistics.bootstrap import Interval, crossed_mean

KEYS: tuple[str, ...] = ("method", "opponent", "users", "judge", "pairing")
"""What a win rate is of: two methods, seen or unseen users, who judged, and how the two images' seeds relate."""

CEILING = "ceiling"
"""The method that stands for exact inference from the same support pairs, where a truth is known."""

SAMPLED = ("user_id", "caption", "training_seed")

Entry = Mapping[str, Any]
"""A row of win_rates.json."""


def win_rates(comparisons: pd.DataFrame) -> list[dict[str, object]]:
    """`reports/win_rates.json`: one entry for each combination of `KEYS` among the comparisons, in order of appearance.

    comparisons: `tables.COMPARISONS` with `tables.VERDICT`; one without an outcome counts in nothing. A column
    `training_seed` says which of several trainings drew the method's image; without it the one training is held fixed.
    """
    entries: list[dict[str, object]] = []
    for key, group in comparisons[comparisons.outcome.notna()].groupby(list(KEYS), sort=False):
        rate = crossed_mean(group.outcome.to_numpy(dtype=float), sampled_factors(group))
        known = group[group.gain_sd.notna()]
        gain = crossed_mean(known.gain_sd.to_numpy(dtype=float), sampled_factors(known)) if len(known) else None
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


def sampled_factors(comparisons: pd.DataFrame) -> list[NDArray[np.generic]]:
    """What the comparisons are a sample of: users, captions and, where there are several, trainings; [N] each."""
    return [comparisons[name].to_numpy() for name in SAMPLED if name in comparisons]


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
            gap = (part.ours - part.theirs).to_numpy(dtype=float)
            factors = sampled_factors(part.index.to_frame())
            differences[f"{method}-{other}.{users}.{judge}"] = crossed_mean(gap, factors)
    return differences


def headline(win_rates: Sequence[Entry], method: str = "ppd") -> Entry | None:
    """The number that answers the question: ppd over base, unseen users, other seeds, true taste or else the judge."""
    for judge in ("ground-truth", "vlm"):
        wanted = {"method": method, "opponent": "base", "users": "unseen", "pairing": "independent", "judge": judge}
        for entry in win_rates:
            if all(entry[key] == value for key, value in wanted.items()):
                return entry
    return None
