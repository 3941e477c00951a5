"""The vision-language model's verdicts on planned comparisons, each with its prompts, both answers, probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ppd.diffusion.sampling.store import SampledImages, open_samples
from ppd.preferences.store import Preferences
from ppd.users.support import Pair
from ppd.vlm.judging import Judge, Verdict
from ppd.vlm.prompts import Candidates

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

Samples = Mapping[tuple[str, str, str, int], bytes]
"""(model, user_id, caption, seed) -> PNG."""


class StoredSamples(Samples):
    """The sampled images of each model, still encoded, read from their files as they are asked for."""

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._images: dict[str, SampledImages] = {}
        self._rows: dict[tuple[str, str, str, int], int] = {}
        for model, file in images.items():
            requests, self._images[model] = open_samples(file)
            keys = zip(requests.user_id, requests.caption, requests.seed.tolist(), strict=True)
            self._rows |= {(model, *key): row for row, key in enumerate(keys)}

    def __getitem__(self, key: tuple[str, str, str, int]) -> bytes:
        return self._images[key[0]].png(self._rows[key])

    def __iter__(self) -> Iterator[tuple[str, str, str, int]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def shown_to_the_judge(comparisons: pd.DataFrame) -> pd.DataFrame:
    """The meetings that are `first_of_pairing`, of different seeds."""
    return comparisons[comparisons.first_of_pairing & (comparisons.pairing == "independent")]


def held_out_choices(preferences: Preferences, user_ids: Sequence[str]) -> pd.DataFrame:
    """The pairs of these users that nothing was made of."""
    return preferences.pairs[(preferences.pairs.role == "eval") & preferences.pairs.user_id.isin(list(user_ids))]


def judge_comparisons(
    comparisons: pd.DataFrame, samples: Samples, supports: Mapping[str, Sequence[Pair]], judge: Judge
) -> pd.DataFrame:
    """The meetings `shown_to_the_judge`, with judge = "vlm", outcome and the answers.

    supports: the pairs by which the judge knows each user. Ties are verdicts that changed with the order; where an
    answer was void, so is the verdict: outcome NaN.
    """
    requests = shown_to_the_judge(comparisons)
    parts = [_with_verdicts(requests.iloc[:0], [])]  # the columns, should there be no rows
    for user_id, rows in requests.groupby("user_id", sort=False):
        candidates = [
            Candidates(caption, samples[model, user, caption, seed], samples[opponent, other, caption, other_seed])
            for caption, model, user, seed, opponent, other, other_seed in rows[SHOWN].itertuples(
                index=False, name=None
            )
        ]
        parts.append(_with_verdicts(rows, judge(supports[str(user_id)], candidates)))
    return pd.concat(parts, ignore_index=True)


def judge_choices(
    preferences: Preferences, user_ids: Sequence[str], supports: Mapping[str, Sequence[Pair]], judge: Judge
) -> pd.DataFrame:
    """The judge on what users really chose, on captions of evaluation: is it right? One row a held-out pair.

    The chosen image is shown as `a`, which both orders make harmless: correct is 1, 0, .5 for a tie, NaN for a void.
    """
    pairs = held_out_choices(preferences, user_ids)
    about = ["user_id", "caption", "pair_id"]
    parts = [_with_verdicts(pairs[about].iloc[:0], []).rename(columns={"outcome": "correct"})]
    for user_id, rows in pairs.groupby("user_id", sort=True):
        chosen, rejected = (preferences.image_bytes(rows[c].tolist()) for c in ("chosen_uid", "rejected_uid"))
        candidates = [Candidates(*told) for told in zip(rows.caption, chosen, rejected, strict=True)]
        judged = _with_verdicts(rows[about], judge(supports[str(user_id)], candidates))
        parts.append(judged.rename(columns={"outcome": "correct"}))
    return pd.concat(parts, ignore_index=True)


def _with_verdicts(rows: pd.DataFrame, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    return rows.assign(
        judge="vlm",
        outcome=np.array([OUTCOMES[verdict.winner] for verdict in verdicts], dtype=float),
        gain_sd=np.nan,
        p_a=np.array([verdict.p_a for verdict in verdicts], dtype=float),
        consistent=np.array([verdict.winner in ("a", "b") for verdict in verdicts], dtype=bool),
        prompt=[verdict.shown.prompt for verdict in verdicts],
        said_shown=[verdict.shown.said for verdict in verdicts],
        said_swapped=[verdict.swapped.said for verdict in verdicts],
        word_shown=[verdict.shown.word for verdict in verdicts],
        word_swapped=[verdict.swapped.word for verdict in verdicts],
        p_first_shown=np.array([verdict.shown.p_first for verdict in verdicts], dtype=float),
        p_first_swapped=np.array([verdict.swapped.p_first for verdict in verdicts], dtype=float),
    )
