"""Whom the trials sample for, and how: the pipeline's own plan, cut to a trial's budget."""

from typing import Literal

import pandas as pd

from ppd.evaluation.plan import plan_comparisons, plan_requests
from ppd.experiments.settings import TrialSettings
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, SamplingSettings


def requests_of(
    preferences: Preferences, split: Literal["validation", "test"], evaluation: EvaluationSettings, trial: TrialSettings
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


def sampling_of(sampling: SamplingSettings, trial: TrialSettings) -> SamplingSettings:
    """How a trial samples."""
    return sampling.model_copy(update={"steps": trial.sampling_steps})
