"""All verdicts of an evaluation: by the true taste where it is known, and by the vision-language model."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ppd.evaluation.plan import plan_comparisons, plan_interpolations, plan_requests
from ppd.evaluation.truth import TrueJudge
from ppd.evaluation.vlm_verdicts import (
    StoredSamples,
    held_out_choices,
    judge_choices,
    judge_comparisons,
    shown_to_the_judge,
)
from ppd.files import atomic_path
from ppd.layout import Layout
from ppd.parts import share
from ppd.preferences.store import Preferences
from ppd.resumable import work_folder
from ppd.settings import Settings
from ppd.stored_tables import read_frame, write_table
from ppd.users.support import FirstSupport, Pair
from ppd.vlm.judges import load_judge
from ppd.vlm.judging import Judge

USERS_PER_UNIT = 4
"""Whose comparisons a process judges in one go; a killed run loses one go of each."""


def write_verdicts(
    settings: Settings, preferences: Preferences, images: Mapping[str, Path], layout: Layout, truth: TrueJudge | None
) -> None:
    """Leave in the folder of verdicts: vlm and choices; with a truth also ground_truth, readings, interpolations.

    images: the sampled images of each model. ground_truth holds the ceiling's comparisons too. choices: the VLM's
    verdicts on held-out real choices, which say how far its other verdicts can be trusted. Several processes may share
    the VLM's (`ppd.parts`), and a killed run goes on.
    """
    requests = plan_requests(preferences, settings.evaluation)
    comparisons = plan_comparisons(requests, settings.evaluation)
    users = requests.user_id.unique().tolist()
    supports = FirstSupport(preferences, users)
    shown, choices = shown_to_the_judge(comparisons), held_out_choices(preferences, users)
    judge = load_judge(settings, layout.answers, supports[users[0]], len(shown) + len(choices))
    shown_images = hashlib.sha256(b"".join(preferences.digests)).hexdigest()
    work = work_folder(
        layout.unfinished / "judge",
        [settings.judge, judge.name, shown_images, shown.to_numpy().tolist(), choices.pair_id.tolist()],
        [*images.values(), preferences.folder / "pairs.parquet"],
    )
    tables = _by_the_vlm(shown, choices, preferences, StoredSamples(images), supports, judge, work)
    if tables is None:
        return
    if truth is not None:
        interpolations = plan_interpolations(requests, settings.evaluation)
        true = truth.judge(comparisons, interpolations, images, layout.sampled("ppd", "interpolations"))
        tables["ground_truth"] = true.verdicts
        tables["readings"] = true.readings.reset_index()
        tables["interpolations"] = true.interpolations
    with atomic_path(layout.verdicts) as fresh:
        fresh.mkdir()
        for name, table in tables.items():
            write_table(table, fresh / f"{name}.parquet")
    shutil.rmtree(layout.unfinished / "judge")


def _by_the_vlm(
    shown: pd.DataFrame,
    choices: pd.DataFrame,
    preferences: Preferences,
    samples: Mapping[tuple[str, str, str, int], bytes],
    supports: Mapping[str, Sequence[Pair]],
    judge: Judge,
    work: Path,
) -> dict[str, pd.DataFrame] | None:
    """Verdicts on comparisons (vlm) and on held-out choices; None in processes that only helped to make them."""
    units = [("vlm", users) for users in _some_at_a_time(shown.user_id.unique().tolist())]
    units += [("choices", users) for users in _some_at_a_time(sorted(choices.user_id.unique()))]
    files = [work / f"{number:06d}-{kind}.parquet" for number, (kind, _) in enumerate(units)]
    counts = {kind: table.user_id.value_counts() for kind, table in (("vlm", shown), ("choices", choices))}

    def make(number: int) -> None:
        kind, users = units[number]
        if kind == "vlm":
            table = judge_comparisons(shown[shown.user_id.isin(users)], samples, supports, judge)
        else:
            table = judge_choices(preferences, users, supports, judge)
        with atomic_path(files[number]) as fresh:
            write_table(table, fresh)

    sizes = [sum(int(counts[kind][user]) for user in users) for kind, users in units]
    if not share(files, sizes, make, label="judge", check=read_frame):
        return None
    return {
        kind: pd.concat([read_frame(file) for file in files if file.stem.endswith(kind)], ignore_index=True)
        for kind in ("vlm", "choices")
    }


def _some_at_a_time(users: Sequence[str]) -> list[Sequence[str]]:
    """Always one, so that a table without rows still has its columns."""
    return [users[start : start + USERS_PER_UNIT] for start in range(0, max(1, len(users)), USERS_PER_UNIT)]
