"""Whom the trials draw for, and how: the pipeline's own plan, cut to a trial's budget."""

from typing import Literal

import pandas as pd

from ppd.evaluation.plan import meetings, requests
from ppd.experiments.settings import TrialSettings
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings, SamplingSettings


def asked_of(
    preferences: Preferences,
    people: Literal["validation", "test"],
    evaluation: EvaluationSettings,
    trial: TrialSettings,
) -> tuple[pd.DataFrame, EvaluationSettings]:
    """What is drawn for each unseen person (as `ppd.evaluation.plan.requests`), and the settings of that plan."""
    n = int((preferences.users.split == people).sum())
    plan = evaluation.model_copy(
        update={
            "people": people,
            "n_unseen_people": min(n, evaluation.n_unseen_people),
            "captions_a_person": trial.captions_a_person,
        }
    )
    asked = requests(preferences, plan)
    return asked[asked.users == "unseen"].reset_index(drop=True), plan


def meetings_of_ppd(asked: pd.DataFrame, plan: EvaluationSettings, opponents: tuple[str, ...]) -> pd.DataFrame:
    """The planned meetings of ppd's images with those of `opponents`."""
    planned = meetings(asked, plan)
    return planned[(planned.method == "ppd") & planned.opponent.isin(opponents)]


def sampling_of(sampling: SamplingSettings, trial: TrialSettings) -> SamplingSettings:
    """How a trial draws."""
    return sampling.model_copy(update={"steps": trial.sampling_steps})
