"""The comparison plan: which images an evaluation samples, and which two of them are compared by whom.

An image is named by (method, user_id, caption, seed). The noise depends on the caption and the seed alone, so same-seed
images of two methods start alike. The tables' columns are in `ppd.evaluation.tables`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ppd.errors import InputError
from ppd.evaluation.tables import COMPARISONS, INTERPOLATIONS, REQUESTS, SAMPLE, with_columns
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings

if TYPE_CHECKING:
    from torch import Tensor

UNCONDITIONAL = ""
POOLED: tuple[str, ...] = ("base", "dpo", "sft")
"""Methods that sample the same for every user."""
METHODS: tuple[str, ...] = (*POOLED, "ppd")


@dataclass(frozen=True)
class PlannedImages:
    """What to sample: `tables.SAMPLE`, and the embedding [rows, dim] of each user_id in it (none: the base)."""

    requests: pd.DataFrame
    users: Mapping[str, "Tensor"]


def _order(*key: object) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


def plan_requests(preferences: Preferences, settings: EvaluationSettings) -> pd.DataFrame:
    """What is sampled for each user: `tables.REQUESTS`.

    Only captions that nothing was trained on (`evaluation_captions`). A user keeps one seed per caption; users with the
    same seed are each other's same-seed opponents when users are shuffled. A `resample_key` picks the users, and each
    user's own captions, by its name alone. Where there are fewer users or captions than asked for, all of them are
    taken; where there are none, InputError.
    """
    resample_key = [settings.resample_key] if settings.resample_key else []
    captions = evaluation_captions(preferences, settings)
    rows = []
    for users, split, n in (
        ("unseen", settings.unseen_split, settings.n_unseen_users),
        ("seen", "train", settings.n_seen_users),
    ):
        of_split = preferences.users.user_id[preferences.users.split == split]
        if of_split.empty:
            raise InputError(f"no user is in the split {split!r}", fix="Ingest the choices of more users")
        # The words in these keys are part of the plan: another word, other users.
        picked = sorted(of_split, key=lambda u: _order("person", *resample_key, u))[:n]
        for place, user_id in enumerate(picked):
            numbers = sorted(
                range(len(captions)), key=lambda n: _order(*resample_key, user_id, captions[n]) if resample_key else n
            )
            for number in numbers[: settings.captions_per_user]:
                caption = captions[number]
                seed = settings.first_seed + (place + number) % settings.n_seeds
                rows.append((users, user_id, caption, seed))
    return pd.DataFrame(rows, columns=list(REQUESTS))


def evaluation_captions(preferences: Preferences, settings: EvaluationSettings) -> list[str]:
    """The held-out captions of results, or those of `unseen_split: validation`, which settings are chosen with.

    The two share none, but for a log that holds out a single caption. Raises InputError where it holds out none.
    """
    held_out = preferences.captions.caption[preferences.captions.split == "eval"]
    captions = sorted(held_out, key=lambda c: _order("caption", c))
    if not captions:
        raise InputError("no caption is held out to evaluate with", fix="Ingest a log with at least 2 captions")
    n_validation = min(settings.n_validation_captions, len(captions) // 2)
    if settings.unseen_split == "test" or n_validation == 0:
        return captions[n_validation:]
    return captions[:n_validation]


def image_requests(requests: pd.DataFrame, method: str, settings: EvaluationSettings) -> pd.DataFrame:
    """The images that `method` must sample for these requests: `tables.SAMPLE`."""
    if method not in POOLED:
        return with_columns(requests, SAMPLE)
    seeds = range(settings.first_seed, settings.first_seed + settings.n_seeds)
    pool = pd.MultiIndex.from_product([[UNCONDITIONAL], requests.caption.unique(), seeds], names=SAMPLE)
    return pool.to_frame(index=False)


def plan_images(
    requests: pd.DataFrame, method: str, settings: EvaluationSettings, embeddings: Mapping[str, "Tensor"]
) -> dict[str, PlannedImages]:
    """Everything that `method` samples: its images, and for ppd those between users, by the name of their file.

    embeddings: [groups, rows, dim] of each user; a user is known by their first group. Not read for the base.
    """
    images = image_requests(requests, method, settings)
    if method == "base":
        return {"images": PlannedImages(images, {})}
    users = {user_id: groups[0] for user_id, groups in embeddings.items()}
    if method in POOLED:
        # A pooled adapter reads every embedding but zero as the one that stands for all users.
        return {"images": PlannedImages(images, {UNCONDITIONAL: next(iter(users.values())) * 0 + 1})}
    points = plan_interpolations(requests, settings)
    return {
        "images": PlannedImages(images, users),
        "interpolations": PlannedImages(with_columns(points, SAMPLE), interpolated(points, users)),
    }


def interpolated(points: pd.DataFrame, users: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The embedding of each point of `plan_interpolations`, by the point's user_id."""
    columns = (points[name] for name in ("user_id", "first", "second", "share"))
    return {
        point: users[first].lerp(users[second], share) for point, first, second, share in zip(*columns, strict=True)
    }


def plan_comparisons(requests: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Which two images each user compares: `tables.COMPARISONS`, one row a comparison."""
    parts = [
        *(_against_pool(requests, "ppd", opponent, settings) for opponent in POOLED),
        *(_against_pool(requests, method, "base", settings) for method in POOLED if method != "base"),
        _against_shuffled_users(requests, settings),
    ]
    return with_columns(pd.concat(parts, ignore_index=True), COMPARISONS)


def plan_interpolations(requests: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """From one unseen user to the next, in equal steps: `tables.INTERPOLATIONS`.

    Pairs of users follow the plan's order, so none is picked.
    """
    users = requests[requests.users == "unseen"].user_id.unique()
    captions = requests.caption.unique()[: settings.captions_per_interpolation]
    rows = []
    for number in range(min(settings.n_interpolations, len(users) // 2)):
        first, second = users[2 * number : 2 * number + 2]
        seed = settings.first_seed + number % settings.n_seeds
        for caption in captions:
            shares = np.linspace(0, 1, settings.points_per_interpolation).tolist()
            rows += [(first, second, share, f"{first}~{second}~{share:.3f}", caption, seed) for share in shares]
    return pd.DataFrame(rows, columns=list(INTERPOLATIONS))


def _against_pool(requests: pd.DataFrame, method: str, opponent: str, settings: EvaluationSettings) -> pd.DataFrame:
    """Each request's image against the same-seed image of a pooled method and against some of other seeds."""
    parts = []
    for step in range(settings.opponents_per_image + 1):
        part = requests.assign(
            method=method,
            opponent=opponent,
            pairing="same-seed" if step == 0 else "independent",
            method_user=UNCONDITIONAL if method in POOLED else requests.user_id,
            method_seed=requests.seed,
            opponent_model=opponent,
            opponent_user=UNCONDITIONAL,
            # Odd steps apart, so that opponents of one image are spread over the pool.
            opponent_seed=settings.first_seed + (requests.seed - settings.first_seed + 3 * step) % settings.n_seeds,
            first_of_pairing=step <= 1,
        )
        parts.append(part if step == 0 else part[part.opponent_seed != part.method_seed])
    return pd.concat(parts).drop(columns="seed")


def _against_shuffled_users(requests: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Each request's image against ppd's image of the same caption for other users, with the same or another seed."""
    rows = []
    for (users, caption), group in requests.groupby(["users", "caption"], sort=False):
        user_ids, seeds = group.user_id.to_numpy(), group.seed.to_numpy()
        for i in range(len(group)):
            away = np.roll(np.arange(len(group)), -i)[1:]
            same, other = away[seeds[away] == seeds[i]], away[seeds[away] != seeds[i]]
            for pairing, opponents in (("same-seed", same[:1]), ("independent", other[: settings.opponents_per_image])):
                for rank, j in enumerate(opponents):
                    rows.append((users, user_ids[i], caption, pairing, seeds[i], user_ids[j], seeds[j], rank == 0))
    columns = ["users", "user_id", "caption", "pairing", "method_seed", "opponent_user", "opponent_seed"]
    table = pd.DataFrame(rows, columns=[*columns, "first_of_pairing"])
    return table.assign(method="ppd", opponent="ppd-shuffled", opponent_model="ppd", method_user=table.user_id)
