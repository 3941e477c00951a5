"""The ceiling beside every win rate: what exact inference from the same pairs would win, in the same comparisons.

Nobody can know more about a person than the exact posterior given their support pairs. It picks the best of 64 pictures
of the world by the posterior mean of the taste, and that picture takes the place of ppd's against the base's.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation import seeds
from ppd.simulation.posterior import opinion_rate, posterior
from ppd.simulation.truth.utility import FEATURES, Tastes, outcome
from ppd.simulation.users import population
from ppd.simulation.world import FACTORS, N_FEATURES, Scenes, sample_features, scene_features

Floats = NDArray[np.float64]

METHOD = "ceiling"
N_CANDIDATES = 64


def posterior_tastes(preferences: Preferences, truth: Path, people: PeopleSettings) -> Tastes:
    """The posterior mean of everybody's taste, given the pairs of their first support group and nothing else."""
    pairs = preferences.pairs
    pairs = pairs[(pairs.role == "support") & (pairs.support_group == 0)].sort_values(["user_id", "pair_id"])
    scenes = pd.read_parquet(truth / "images.parquet").set_index("image_uid")
    known = population(people)
    rate = opinion_rate(known, people)
    user_ids, means = [], []
    for user_id, rows in pairs.groupby("user_id"):
        chosen, rejected = (_looks(scenes.loc[rows[column]]) for column in ("chosen_uid", "rejected_uid"))
        user_ids.append(str(user_id))
        means.append(posterior(known, people, rate, chosen, rejected) @ known.tastes)
    return Tastes(tuple(user_ids), np.stack(means))


def judge_best_picks(comparisons: pd.DataFrame, base: pd.DataFrame, tastes: Tastes, believed: Tastes) -> pd.DataFrame:
    """True verdicts on ppd's independent meetings with the base, a picked picture in place of ppd's: method "ceiling".

    base: what the reader saw in the base's images (`ppd.simulation.truth.readings`). One picture is picked for each person and
    caption.
    """
    features = list(FEATURES)
    rows = comparisons[
        (comparisons.method == "ppd") & (comparisons.opponent == "base") & (comparisons.pairing == "independent")
    ]
    wishes = rows[["user_id", "caption"]].drop_duplicates()
    candidates = sample_features(seeds.rng("evaluation", "best pick"), len(wishes) * N_CANDIDATES)
    candidates = candidates.reshape(len(wishes), N_CANDIDATES, N_FEATURES)
    liked = (candidates @ believed.of(wishes.user_id.tolist())[..., None])[..., 0]
    picked = candidates[np.arange(len(wishes)), liked.argmax(axis=1)]
    place = pd.Series(np.arange(len(wishes)), index=pd.MultiIndex.from_frame(wishes))
    taste = tastes.of(rows.user_id.tolist())
    utility = (picked[place.loc[pd.MultiIndex.from_frame(rows[["user_id", "caption"]])]] * taste).sum(axis=1)
    opponent = pd.MultiIndex.from_frame(rows[["opponent_user", "caption", "opponent_seed"]])
    opponents = (base[features].droplevel("model").loc[opponent].to_numpy() * taste).sum(axis=1)
    spread = (base[features].to_numpy() @ taste.T).std(axis=0)
    return rows.assign(
        method=METHOD,
        judge="ground-truth",
        outcome=outcome(utility, opponents),
        gain_sd=(utility - opponents) / spread,
    )


def _looks(scenes: pd.DataFrame) -> Floats:
    """The features of the pictures that these rows of truth/images.parquet show: [N, 9]."""
    factors = scenes[[factor.name for factor in FACTORS]].to_numpy()
    concept, style, seed = (scenes[column].to_numpy() for column in ("concept", "style", "seed"))
    return scene_features(Scenes(concept, style, factors, seed))
