"""Which images an evaluation draws, and which of them meet.

An image is named by (method, user_id, caption, seed). Methods that know no person draw one image for everybody:
user_id "". The noise depends on the caption and the seed alone, so same-seed images of two methods start alike.
"""

import hashlib

import numpy as np
import pandas as pd

from ppd.errors import InputError
from ppd.preferences.store import Preferences
from ppd.settings import EvaluationSettings

NOBODY = ""
POOLED: tuple[str, ...] = ("base", "dpo", "sft")
"""Methods that draw the same for everybody."""


def _order(*key: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def requests(preferences: Preferences, settings: EvaluationSettings) -> pd.DataFrame:
    """What is drawn for each person: rows of users (seen | unseen), user_id, caption, seed.

    Only captions that nothing was trained on. A person keeps one seed per caption; people with the same seed are each
    other's same-seed opponents when users are shuffled. An `occasion` draws the people, and each person's own captions,
    from its name alone. Where there are fewer people or captions than asked for, all of them are taken; where there are
    none, InputError.
    """
    occasion = [settings.occasion] if settings.occasion else []
    captions = sorted(
        preferences.captions.caption[preferences.captions.split == "eval"], key=lambda c: _order("caption", c)
    )
    if not captions:
        raise InputError("no caption is held out to evaluate with", fix="Ingest a log with at least 2 captions")
    rows = []
    for users, split, n in (
        ("unseen", settings.people, settings.n_unseen_people),
        ("seen", "train", settings.n_seen_people),
    ):
        of_split = preferences.users.user_id[preferences.users.split == split]
        if of_split.empty:
            raise InputError(f"nobody is in the split {split!r}", fix="Ingest the choices of more users")
        people = sorted(of_split, key=lambda u: _order("person", *occasion, u))[:n]
        for place, user_id in enumerate(people):
            numbers = sorted(
                range(len(captions)), key=lambda n: _order(*occasion, user_id, captions[n]) if occasion else n
            )
            for number in numbers[: settings.captions_a_person]:
                caption = captions[number]
                seed = settings.first_seed + (place + number) % settings.n_seeds
                rows.append({"users": users, "user_id": user_id, "caption": caption, "seed": seed})
    return pd.DataFrame(rows)


def images(asked: pd.DataFrame, method: str, settings: EvaluationSettings) -> pd.DataFrame:
    """The images that `method` must draw for these requests: rows of user_id, caption, seed."""
    if method not in POOLED:
        return asked[["user_id", "caption", "seed"]]
    seeds = range(settings.first_seed, settings.first_seed + settings.n_seeds)
    pool = pd.MultiIndex.from_product([[NOBODY], asked.caption.unique(), seeds], names=["user_id", "caption", "seed"])
    return pool.to_frame(index=False)


def meetings(asked: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Which two images meet before whom: one row a comparison.

    Columns: method, opponent, users, pairing (independent | same-seed), user_id (who judges), caption,
    and of both images: method_user, method_seed, opponent_model, opponent_user, opponent_seed; first_of_pairing: the
    one that the VLM judge sees too. Opponent "ppd-shuffled" is the ppd image drawn for somebody else.
    """
    return pd.concat(
        [
            *(_against_pool(asked, "ppd", opponent, settings) for opponent in POOLED),
            *(_against_pool(asked, method, "base", settings) for method in POOLED if method != "base"),
            _against_somebody_else(asked, settings),
        ],
        ignore_index=True,
    )


def journeys(asked: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """The way from one unseen person to the next, in equal steps: rows of first, second, share, user_id, caption, seed.

    share is that of the second person; user_id names the point on the way. Pairs of people follow the plan's order, so
    nobody is picked.
    """
    people = asked[asked.users == "unseen"].user_id.unique()
    captions = asked.caption.unique()[: settings.captions_a_journey]
    rows = []
    for number in range(min(settings.n_journeys, len(people) // 2)):
        first, second = people[2 * number : 2 * number + 2]
        seed = settings.first_seed + number % settings.n_seeds
        for caption in captions:
            shares = np.linspace(0, 1, settings.journey_steps).tolist()
            rows += [(first, second, share, f"{first}~{second}~{share:.3f}", caption, seed) for share in shares]
    return pd.DataFrame(rows, columns=["first", "second", "share", "user_id", "caption", "seed"])


def _against_pool(asked: pd.DataFrame, method: str, opponent: str, settings: EvaluationSettings) -> pd.DataFrame:
    """Each request's image against the same-seed image of a pooled method and against some of other seeds."""
    parts = []
    for step in range(settings.opponents_an_image + 1):
        part = asked.assign(
            method=method,
            opponent=opponent,
            pairing="same-seed" if step == 0 else "independent",
            method_user=NOBODY if method in POOLED else asked.user_id,
            method_seed=asked.seed,
            opponent_model=opponent,
            opponent_user=NOBODY,
            # Odd steps apart, so that opponents of one image are spread over the pool.
            opponent_seed=settings.first_seed + (asked.seed - settings.first_seed + 3 * step) % settings.n_seeds,
            first_of_pairing=step <= 1,
        )
        parts.append(part if step == 0 else part[part.opponent_seed != part.method_seed])
    return pd.concat(parts).drop(columns="seed")


def _against_somebody_else(asked: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Each request's image against ppd's image of the same caption for other people, with the same or another seed."""
    rows = []
    for (users, caption), group in asked.groupby(["users", "caption"], sort=False):
        people, seeds = group.user_id.to_numpy(), group.seed.to_numpy()
        for i in range(len(group)):
            away = np.roll(np.arange(len(group)), -i)[1:]
            same, other = away[seeds[away] == seeds[i]], away[seeds[away] != seeds[i]]
            for pairing, opponents in (("same-seed", same[:1]), ("independent", other[: settings.opponents_an_image])):
                for rank, j in enumerate(opponents):
                    rows.append((users, people[i], caption, pairing, seeds[i], people[j], seeds[j], rank == 0))
    columns = ["users", "user_id", "caption", "pairing", "method_seed", "opponent_user", "opponent_seed"]
    table = pd.DataFrame(rows, columns=[*columns, "first_of_pairing"])
    return table.assign(method="ppd", opponent="ppd-shuffled", opponent_model="ppd", method_user=table.user_id)
