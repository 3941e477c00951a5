"""The ceiling beside every win rate: what exact inference from the same pairs would win, in the same comparisons.

Nobody can know more about a user than the exact posterior given their support pairs. It picks the best of 64 pictures
of the world by the posterior mean of the taste, and that picture takes the place of ppd's against the base's.
"""

import numpy as np
import pandas as pd

from ppd.evaluation.win_rates import CEILING
from ppd.simulation import seeds
from ppd.simulation.truth.utility import Tastes, compare, spread_of, utility_of
from ppd.simulation.world import N_FEATURES, sample_features

N_CANDIDATES = 64


def judge_best_picks(comparisons: pd.DataFrame, base: pd.DataFrame, tastes: Tastes, believed: Tastes) -> pd.DataFrame:
    """True verdicts on ppd's independent comparisons with the base, a picked picture in ppd's place: method "ceiling".

    base: readings of the base's images. One picture is picked for each user and caption.
    """
    ours = (comparisons.method == "ppd") & (comparisons.opponent == "base") & (comparisons.pairing == "independent")
    rows = comparisons[ours]
    requests = rows[["user_id", "caption"]].drop_duplicates()
    candidates = sample_features(seeds.rng("evaluation", "best pick"), len(requests) * N_CANDIDATES)
    candidates = candidates.reshape(len(requests), N_CANDIDATES, N_FEATURES)
    liked = (candidates @ believed.of(requests.user_id.tolist())[..., None])[..., 0]
    picked = candidates[np.arange(len(requests)), liked.argmax(axis=1)]
    place = pd.Series(np.arange(len(requests)), index=pd.MultiIndex.from_frame(requests))
    taste = tastes.of(rows.user_id.tolist())
    utility = (picked[place.loc[pd.MultiIndex.from_frame(rows[["user_id", "caption"]])]] * taste).sum(axis=1)
    opponent = pd.MultiIndex.from_frame(rows[["opponent_user", "caption", "opponent_seed"]])
    opponents = utility_of(base.droplevel("model"), opponent, taste)
    return compare(rows.assign(method=CEILING), utility, opponents, spread_of(base, taste))
