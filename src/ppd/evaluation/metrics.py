"""What metrics.json holds beside the truth's own numbers: plain dotted names, each mean with its interval."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ppd.evaluation.reward_scores import Scores
from ppd.evaluation.tables import Images
from ppd.evaluation.win_rates import CEILING, Entry, headline, paired_differences
from ppd.statistics.bootstrap import clustered_mean


def headline_metrics(win_rates: Sequence[Entry]) -> dict[str, float]:
    """The answer and its interval, and its share of the ceiling's where there is one."""
    if (answer := headline(win_rates)) is None:
        return {}
    metrics = {f"headline.{key}": float(answer[key]) for key in ("win_rate", "ci_low", "ci_high")}
    ceiling = headline(win_rates, CEILING)
    if ceiling is not None and answer["judge"] == ceiling["judge"]:
        metrics["headline.share_of_ceiling"] = metrics["headline.win_rate"] / float(ceiling["win_rate"])
    return metrics


def difference_metrics(compared: pd.DataFrame) -> dict[str, float]:
    """How much more often ppd beats the base than each other method does, paired."""
    metrics: dict[str, float] = {}
    for name, difference in paired_differences(compared).items():
        metrics |= difference.as_metrics(f"difference.{name}")
    return metrics


def judge_metrics(choices: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, float]:
    """How good the judge is: on real held-out choices, and whether its answers depend on the order shown.

    Void verdicts count in nothing but their own share; what there is nothing to take a mean of is left out, as are
    probabilities where the judge returns none.
    """
    said = {"choices": choices.correct, "verdicts": verdicts.outcome}
    metrics = {f"judge.void.{name}": float(outcomes.isna().mean()) for name, outcomes in said.items() if len(outcomes)}
    choices, verdicts = choices[choices.correct.notna()], verdicts[verdicts.outcome.notna()]
    if len(choices):
        metrics |= clustered_mean(choices.correct.to_numpy(dtype=float), choices.user_id.to_numpy()).as_metrics(
            "judge.accuracy"
        )
        metrics["judge.consistency.choices"] = float(choices.consistent.mean())
        if choices.p_a.notna().all():
            metrics["judge.accuracy_of_mean_probability"] = float((choices.p_a > 0.5).mean())
    if len(verdicts):
        metrics["judge.consistency.verdicts"] = float(verdicts.consistent.mean())
    return metrics


def reward_metrics(samples: Mapping[str, tuple[pd.DataFrame, Images]], scores: Scores) -> dict[str, float]:
    """Each scorer's mean over each model's images, with its interval over captions."""
    metrics: dict[str, float] = {}
    for (reward, model), values in scores.items():
        captions = samples[model][0].caption.to_numpy()
        metrics |= clustered_mean(values, captions).as_metrics(f"reward.{reward}.{model}")
    return metrics


def interpolation_metrics(points: pd.DataFrame) -> dict[str, float]:
    """What both users gain between them, by the share of the second, with intervals over the pairs of users.

    points: `tables.INTERPOLATIONS` with gain_first and gain_second.
    """
    metrics: dict[str, float] = {}
    pair = (points["first"] + "~" + points.second).to_numpy()
    for share, rows in points.groupby("share"):
        for gain in ("gain_first", "gain_second"):
            interval = clustered_mean(rows[gain].to_numpy(), pair[rows.index])
            metrics |= interval.as_metrics(f"interpolation.{share:.2f}.{gain}")
    return metrics | {"interpolation.n": float(len(np.unique(pair)))}
