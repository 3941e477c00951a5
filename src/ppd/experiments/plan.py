"""Whom the trials sample for, and how: the pipeline's own plan, cut to a trial's budget."""

from typing import Literal

import pandas as pd

from ppd.evaluation.plan import UNCONDITIONAL, evaluation_captions, plan_comparisons, plan_requests
from ppd.evaluation.tables import SAMPLE
from ppd.experiments.settings import TrialSettings
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, SamplingSettings

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
"""Of users and captions: settings are chosen on the first, results are on the second."""
POOL_SEED = 10_000
"""First noise of the images to pick from: none of the plan's, so that no image meets itself."""


def requests_of(
    preferences: Preferences, split: Split, evaluation: EvaluationSettings, trial: TrialSettings
) -> tuple[pd.DataFrame, EvaluationSettings]:
    """What is sampled for each unseen user (as `plan_requests` says it), and the settings of that plan."""
    n = min(int((preferences.users.split == split).sum()), evaluation.n_unseen_users)
    budget = {"unseen_split": split, "n_unseen_users": n, "captions_per_user": trial.captions_per_user}
    plan = evaluation.model_copy(update=budget)
    requests = plan_requests(preferences, plan)
    return requests[requests.users == "unseen"].reset_index(drop=True), plan


def comparisons_of_ppd(requests: pd.DataFrame, plan: EvaluationSettings, opponents: tuple[str, ...]) -> pd.DataFrame:
    """The planned comparisons of ppd's images with those of `opponents`."""
    planned = plan_comparisons(requests, plan)
    return planned[(planned.method == "ppd") & planned.opponent.isin(opponents)]


def captions_of(split: Split, preferences: Preferences, evaluation: EvaluationSettings) -> list[str]:
    """The held-out captions of a split."""
    return evaluation_captions(preferences, evaluation.model_copy(update={"unseen_split": split}))


def pool_requests(preferences: Preferences, evaluation: EvaluationSettings, n: int) -> pd.DataFrame:
    """`n` images of the base for each held-out caption: `tables.SAMPLE`.

    For those of validation the first noises are the plan's own; for those of test all are from `POOL_SEED` on.
    """
    parts = []
    for split, first in zip(SPLITS, (evaluation.first_seed, POOL_SEED), strict=True):
        captions = captions_of(split, preferences, evaluation)
        parts.append(pd.MultiIndex.from_product([[UNCONDITIONAL], captions, range(first, first + n)], names=SAMPLE))
    return pd.concat([part.to_frame(index=False) for part in parts], ignore_index=True).drop_duplicates()


def sampling_of(sampling: SamplingSettings, trial: TrialSettings) -> SamplingSettings:
    """How a trial samples."""
    return sampling.model_copy(update={"steps": trial.sampling_steps})
