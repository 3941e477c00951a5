"""All verdicts of an evaluation: by the true taste where it is known, and by the vision-language model."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ppd.evaluation.plan import plan_comparisons, plan_interpolations, plan_requests
from ppd.evaluation.truth import TrueJudge
from ppd.evaluation.vlm_verdicts import (
    held_out_choices,
    judge_choices,
    judge_comparisons,
    load_samples,
    shown_to_the_judge,
)
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.stored_tables import write_table
from ppd.users.support import first_support
from ppd.vlm.judges import load_judge


def write_verdicts(
    settings: Settings, preferences: Preferences, images: Mapping[str, Path], layout: Layout, truth: TrueJudge | None
) -> None:
    """Leave in the folder of verdicts: vlm and choices; with a truth also ground_truth, readings, interpolations.

    images: the sampled images of each model. ground_truth holds the ceiling's comparisons too. choices: the VLM's
    verdicts on held-out real choices, which say how far its other verdicts can be trusted.
    """
    requests = plan_requests(preferences, settings.evaluation)
    comparisons = plan_comparisons(requests, settings.evaluation)
    users = requests.user_id.unique().tolist()
    supports = first_support(preferences, users)
    n_comparisons = len(shown_to_the_judge(comparisons)) + len(held_out_choices(preferences, users))
    judge = load_judge(settings, layout.answers, supports[users[0]], n_comparisons)
    tables: dict[str, pd.DataFrame] = {}
    if truth is not None:
        interpolations = plan_interpolations(requests, settings.evaluation)
        true = truth.judge(comparisons, interpolations, images, layout.sampled("ppd", "interpolations"))
        tables["ground_truth"] = true.verdicts
        tables["readings"] = true.readings.reset_index()
        tables["interpolations"] = true.interpolations
    tables["vlm"] = judge_comparisons(comparisons, load_samples(images), supports, judge)
    tables["choices"] = judge_choices(preferences, users, supports, judge)
    with atomic_path(layout.verdicts) as fresh:
        fresh.mkdir()
        for name, table in tables.items():
            write_table(table, fresh / f"{name}.parquet")
