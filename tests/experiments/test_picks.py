"""Picking among images: nested tournaments, candidates of one's own, and nobody meets their own image."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ppd.evaluation.tables import COMPARISONS, SAMPLE
from ppd.experiments.picks import candidates_of, compared, picked_by_judge, picked_by_taste
from ppd.experiments.sampling import choice
from ppd.experiments.settings import BestOfNSettings, SamplingGridSettings
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.world import FEATURES

REQUESTS = pd.DataFrame({"user_id": ["ann", "ann", "ben"], "caption": ["fox", "owl", "fox"]})


def test_users_share_a_pool_but_not_the_order_of_their_candidates() -> None:
    pool = candidates_of(REQUESTS, 6, pool=16)
    assert set(pool.user_id) == {""}
    own = pool[pool.caption == "fox"].groupby("for_user").seed.agg(list)
    assert own["ann"] != own["ben"]
    assert pool.groupby(["for_user", "caption"]).seed.nunique().eq(6).all()
    personal = candidates_of(REQUESTS, 6, pool=None)
    assert (personal.user_id == personal.for_user).all()


def test_the_best_of_the_first_n_is_what_the_taste_says() -> None:
    candidates = candidates_of(REQUESTS, 8, pool=8)
    keys = candidates[list(SAMPLE)].drop_duplicates()
    looks = np.zeros((len(keys), len(FEATURES)))
    looks[:, 0] = keys.seed  # later noises are worth more to ann, and less to ben
    readings = keys.assign(**dict(zip(FEATURES, looks.T, strict=True))).set_index(list(SAMPLE))
    taste = np.eye(2, len(FEATURES))[[0, 0]] * np.array([[1], [-1]])
    for n in (2, 8):
        picked = picked_by_taste(candidates, readings, Tastes(("ann", "ben"), taste), n)
        seeds = candidates[candidates.place < n].groupby(["for_user", "caption"]).seed
        assert len(picked) == len(REQUESTS)
        for row in picked.itertuples():
            wanted = seeds.max() if row.for_user == "ann" else seeds.min()
            assert row.seed == wanted[row.for_user, row.caption]


def test_one_tournament_gives_the_best_of_every_smaller_one_by_n_minus_one_matches() -> None:
    candidates = candidates_of(REQUESTS, 8, pool=8)
    samples = {
        ("base", *key): str(key[2]).encode() for key in candidates[list(SAMPLE)].itertuples(index=False, name=None)
    }
    asked: list[int] = []

    def judge(pairs, shown):
        asked.append(len(shown))
        sign = 1 if pairs == "ann's" else -1  # ann likes later noises, ben earlier ones
        return [SimpleNamespace(p_a=float(sign * int(c.first) > sign * int(c.second))) for c in shown]

    supports = {"ann": "ann's", "ben": "ben's"}
    winners = picked_by_judge(candidates, "base", samples, supports, judge, (2, 8))
    assert sum(asked) == len(REQUESTS) * 7
    for n, picked in winners.groupby("n"):
        seeds = candidates[candidates.place < n].groupby(["for_user", "caption"]).seed
        assert len(picked) == len(REQUESTS)
        for row in picked.itertuples():
            wanted = seeds.max() if row.for_user == "ann" else seeds.min()
            assert row.seed == wanted[row.for_user, row.caption]


def test_every_image_of_a_request_meets_every_opponent_of_the_same() -> None:
    ours = candidates_of(REQUESTS, 2, pool=None)
    opponents = candidates_of(REQUESTS, 3, pool=8)
    table = compared(ours, "ours", opponents, "base")
    assert list(table.columns) == list(COMPARISONS)
    assert len(table) == len(REQUESTS) * 2 * 3
    assert (table.method_user == table.user_id).all()
    assert set(table.opponent_user) == {""}


def row(gain: float, precision: float, concept: float = 1.0) -> dict[str, object]:
    rate = {"opponent": "base", "pairing": "independent", "gain_sd": gain}
    return {"win_rates": [rate], "precision": {"mean": precision}, "concept_accuracy": {"mean": concept}}


def test_what_gains_most_within_the_limits_is_chosen() -> None:
    limits, base = SamplingGridSettings(), {"precision": {"mean": 0.8}}
    rows = [row(1.0, 0.79), row(1.2, 0.73), row(1.5, 0.6), row(1.4, 0.8, concept=0.9)]
    assert choice(rows, base, limits) == 1
    assert choice(rows[2:], base, limits) is None


@pytest.mark.parametrize("wrong", [{"n": (4, 6)}, {"n_ours": (1,)}, {"n": (64,), "pool": 66}])
def test_what_is_no_tournament_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="powers of two|must leave four"):
        BestOfNSettings(**wrong)
