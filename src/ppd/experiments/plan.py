"""Whom the trials draw for, and how: the pipeline's own plan, cut to a trial's budget."""

from typing import Literal

import pandas as pd

from ppd.evaluation.plan import plan_comparisons, plan_requests
from ppd.experiments.settings import TrialSettings
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, SamplingSettings


def requests_of(
    preferences: Preferences,
    people: Literal["validation", "test"],
    evaluation: EvaluationSettings,
    trial: TrialSettings,
) -> tuple[pd.DataFrame, EvaluationSettings]:
    """What is drawn for each unseen person (as `ppd.evaluation.plan.plan_requests`), and the settings of that plan."""
    n = int((preferences.users.split == people).sum())
    plan = evaluation.model_copy(
        update={
            "unseen_split": people,
            "n_unseen_users": min(n, evaluation.n_unseen_users),
            "captions_per_user": trial.captions_per_user,
        }
    )
    requests = plan_requests(preferences, plan)
    return requests[requests.users == "unseen"].reset_index(drop=True), plan


def comparisons_of_ppd(requests: pd.DataFrame, plan: EvaluationSettings, opponents: tuple[str, ...]) -> pd.DataFrame:
    """The planned meetings of ppd's images with those of `opponents`."""
    planned = plan_comparisons(requests, plan)
    return planned[(planned.method == "ppd") & planned.opponent.isin(opponents)]


def sampling_of(sampling: SamplingSettings, trial: TrialSettings) -> SamplingSettings:
    """How a trial draws."""
    return sampling.model_copy(update={"steps": trial.sampling_steps})
