"""Choosing among several images for a user: what needs no training, only more sampling and somebody who picks.

Who picks knows the user by the same four pairs as the adapter does: the vision-language model as a judge, in a knockout
tournament, or the exact posterior, which bounds every judge. A candidate is a row of `tables.SAMPLE` with for_user, the
user it may be picked for, and place, its number among the candidates of this user and caption.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ppd.evaluation.tables import COMPARISONS, SAMPLE, with_columns
from ppd.evaluation.vlm_verdicts import Samples
from ppd.experiments.plan import POOL_SEED
from ppd.simulation.truth.utility import Tastes, utility_of
from ppd.users.support import Pair
from ppd.vlm.judging import Judge
from ppd.vlm.prompts import Candidates

REQUEST = ["for_user", "caption"]


def candidates_of(requests: pd.DataFrame, n: int, *, pool: int | None) -> pd.DataFrame:
    """`n` candidates of each request (user_id, caption).

    pool: so many images of the base that all users share, of which each user and caption gets n in an order of its own;
    None: images sampled for the user.
    """
    rng = np.random.default_rng(0)
    parts = []
    for user_id, caption in requests[["user_id", "caption"]].itertuples(index=False, name=None):
        seeds = POOL_SEED + (np.arange(n) if pool is None else rng.permutation(pool)[:n])
        part = pd.DataFrame({"user_id": user_id if pool is None else "", "caption": caption, "seed": seeds})
        parts.append(part.assign(for_user=user_id, place=np.arange(n)))
    return pd.concat(parts, ignore_index=True)


def picked_by_taste(candidates: pd.DataFrame, readings: pd.DataFrame, believed: Tastes, n: int) -> pd.DataFrame:
    """Of the first n candidates of each request the one that is worth most to the taste that is believed.

    readings: of one model's images, by `tables.SAMPLE`.
    """
    first = candidates[candidates.place < n].reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(first[list(SAMPLE)])
    worth = pd.Series(utility_of(readings, keys, believed.of(first.for_user.tolist())))
    return first.loc[worth.groupby([first.for_user, first.caption], sort=False).idxmax()].reset_index(drop=True)


def picked_by_judge(
    candidates: pd.DataFrame,
    model: str,
    samples: Samples,
    supports: Mapping[str, Sequence[Pair]],
    judge: Judge,
    ns: Sequence[int],
) -> pd.DataFrame:
    """The winners of knockout tournaments among the first n candidates of each request: candidates with a column n.

    ns: powers of two. A match is won by what the judge finds more probable to be preferred, over both orders. The
    tournament of the first 16 is a part of that of the first 64, so all n cost max(ns) − 1 matches.
    """
    winners = []
    for user_id, own in candidates[candidates.place < max(ns)].groupby("for_user", sort=False):
        left = own.sort_values(["caption", "place"], kind="stable")
        n_left = n_seen = 1
        while True:
            if n_seen in ns:
                winners.append(left.groupby("caption", sort=False).head(1).assign(n=n_seen))
            n_left = int(left.groupby("caption", sort=False).size().iloc[0])
            if n_left == 1:
                break
            shown = [
                samples[model, *key] for key in left[list(SAMPLE)].itertuples(index=False, name=None)
            ]  # a, b, a, b …
            pairs = zip(left.caption[::2], shown[::2], shown[1::2], strict=True)
            verdicts = judge(supports[str(user_id)], [Candidates(*pair) for pair in pairs])
            first = np.array([verdict.p_a >= 0.5 for verdict in verdicts])
            left = left[np.stack([first, ~first], axis=1).ravel()]
            n_seen *= 2
    return pd.concat(winners, ignore_index=True)


def compared(method: pd.DataFrame, model: str, opponent: pd.DataFrame, opponent_model: str) -> pd.DataFrame:
    """Every image of `method` against every one of `opponent` of the same request: `tables.COMPARISONS`.

    Both are candidates, of a request one or several.
    """
    columns = [*REQUEST, "user_id", "seed"]
    rows = method[columns].merge(opponent[columns], on=REQUEST, suffixes=("", "_of_opponent"))
    table = rows.rename(
        columns={
            "user_id": "method_user",
            "seed": "method_seed",
            "user_id_of_opponent": "opponent_user",
            "seed_of_opponent": "opponent_seed",
            "for_user": "user_id",
        }
    ).assign(
        users="unseen",
        method=model,
        opponent=opponent_model,
        opponent_model=opponent_model,
        pairing="independent",
        first_of_pairing=False,
    )
    return with_columns(table, COMPARISONS)
