"""The vision-language model's verdicts on planned meetings, each with its prompts, both answers and probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from ppd.preferences.store import Preferences
from ppd.vlm.conversation import Candidates, Pair
from ppd.vlm.judging import Judge, Verdict

OUTCOMES = {"a": 1.0, "b": 0.0, "tie": 0.5, "void": np.nan}
"""A void verdict is no tie: it says nothing about the images, and nothing counts it."""

SHOWN = [
    "caption",
    "method",
    "method_user",
    "method_seed",
    "opponent_model",
    "opponent_user",
    "opponent_seed",
]
"""The columns of a meeting that say which two images are shown."""

Drawn = Mapping[tuple[str, str, str, int], bytes]
"""(model, user_id, caption, seed) -> PNG."""


def shown_to_the_judge(meetings: pd.DataFrame) -> pd.DataFrame:
    """The meetings that are `first_of_pairing`, of different seeds."""
    return meetings[meetings.first_of_pairing & (meetings.pairing == "independent")]


def held_out_choices(preferences: Preferences, user_ids: Sequence[str]) -> pd.DataFrame:
    """The pairs of these people that nothing was made of."""
    return preferences.pairs[(preferences.pairs.role == "eval") & preferences.pairs.user_id.isin(list(user_ids))]


def judge_meetings(
    meetings: pd.DataFrame, drawn: Drawn, supports: Mapping[str, Sequence[Pair]], judge: Judge
) -> pd.DataFrame:
    """The meetings `shown_to_the_judge`, with judge = "vlm", outcome and the answers.

    supports: the pairs by which the judge knows each person. Ties are verdicts that changed with the order; where an
    answer was void, so is the verdict: outcome NaN.
    """
    asked = shown_to_the_judge(meetings)
    parts = []
    people = asked.groupby("user_id", sort=False)
    for user_id, rows in track(people, description="judge", total=people.ngroups, console=Console(stderr=True)):
        candidates = [
            Candidates(caption, drawn[model, user, caption, seed], drawn[opponent, other, caption, other_seed])
            for caption, model, user, seed, opponent, other, other_seed in rows[SHOWN].itertuples(
                index=False, name=None
            )
        ]
        parts.append(_with_verdicts(rows, judge(supports[str(user_id)], candidates)))
    return pd.concat(parts, ignore_index=True)


def judge_choices(
    preferences: Preferences, user_ids: Sequence[str], supports: Mapping[str, Sequence[Pair]], judge: Judge
) -> pd.DataFrame:
    """The judge on what people really chose, on captions of evaluation: is it right? One row a held-out pair.

    The chosen image is shown as `a`, which both orders make harmless: correct is 1, 0, .5 for a tie, NaN for a void.
    """
    pairs = held_out_choices(preferences, user_ids)
    parts = []
    people = pairs.groupby("user_id", sort=True)
    for user_id, rows in track(
        people, description="check the judge", total=people.ngroups, console=Console(stderr=True)
    ):
        chosen, rejected = (preferences.image_bytes(rows[c].tolist()) for c in ("chosen_uid", "rejected_uid"))
        candidates = [Candidates(*told) for told in zip(rows.caption, chosen, rejected, strict=True)]
        parts.append(_with_verdicts(rows[["user_id", "caption", "pair_id"]], judge(supports[str(user_id)], candidates)))
    if not parts:  # nobody who is asked has chosen on a caption of evaluation
        parts = [_with_verdicts(pairs[["user_id", "caption", "pair_id"]], [])]
    return pd.concat(parts, ignore_index=True).rename(columns={"outcome": "correct"})


def _with_verdicts(rows: pd.DataFrame, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    return rows.assign(
        judge="vlm",
        outcome=[OUTCOMES[verdict.winner] for verdict in verdicts],
        gain_sd=np.nan,
        p_a=[verdict.p_a for verdict in verdicts],
        consistent=[verdict.winner in ("a", "b") for verdict in verdicts],
        prompt=[verdict.shown.prompt for verdict in verdicts],
        said_shown=[verdict.shown.said for verdict in verdicts],
        said_swapped=[verdict.swapped.said for verdict in verdicts],
        word_shown=[verdict.shown.word for verdict in verdicts],
        word_swapped=[verdict.swapped.word for verdict in verdicts],
        p_first_shown=[verdict.shown.p_first for verdict in verdicts],
        p_first_swapped=[verdict.swapped.p_first for verdict in verdicts],
    )
