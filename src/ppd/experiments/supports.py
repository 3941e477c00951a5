"""One person described by more or by fewer choices: what k pairs of an unseen person are worth, beside all they tell.

The conversation holds k pairs: the first k of the person's first support group, or its four and those of the groups
after it. Adapters are trained on groups of four alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation.posterior import choice_log_likelihood, opinion_rate, posterior, predict_choice
from ppd.simulation.truth.utility import Tastes
from ppd.simulation.users import population
from ppd.simulation.world import FACTORS, STYLES, features
from ppd.users.support import SupportGroup, support_groups

Floats = NDArray[np.float64]


def supports_of(preferences: Preferences, user_ids: Sequence[str], n_pairs: int) -> list[SupportGroup]:
    """Each person's first `n_pairs` support pairs as one group, in the order of (group, pair)."""
    pairs: dict[str, list[SupportGroup]] = {}
    for group in support_groups(preferences, user_ids):
        pairs.setdefault(group.user_id, []).append(group)
    told = {user_id: tuple(pair for group in groups for pair in group.pairs) for user_id, groups in pairs.items()}
    return [SupportGroup(user_id, 0, shown[:n_pairs]) for user_id, shown in told.items()]


def support_pairs(preferences: Preferences, user_ids: Sequence[str], n_pairs: int) -> pd.DataFrame:
    """The same pairs as rows of the log: user_id, chosen_uid, rejected_uid, `n_pairs` of each person."""
    pairs = preferences.pairs[(preferences.pairs.role == "support") & preferences.pairs.user_id.isin(list(user_ids))]
    ordered = pairs.sort_values(["user_id", "support_group", "pair_id"])
    return ordered.groupby("user_id", sort=False).head(n_pairs)


class ExactReader:
    """What choices tell about people when nothing is lost: the true factors of the shown images, and Bayes.

    It knows the prior over people and how they choose, which no model of the pipeline is told.
    """

    def __init__(self, truth: Path, settings: PeopleSettings) -> None:
        images = pd.read_parquet(truth / "images.parquet").set_index("image_uid")
        factors = images[[factor.name for factor in FACTORS]].to_numpy()
        self._row = pd.Series(range(len(images)), index=images.index)
        self._looks = features(np.eye(len(STYLES))[images["style"]], factors)
        self._settings, self._people = settings, population(settings)
        self._rate = opinion_rate(self._people, settings)

    def looks(self, uids: pd.Series) -> Floats:
        """Features of the images with these uids: [N, 9]."""
        return self._looks[self._row[uids]]

    def beliefs(self, pairs: pd.DataFrame) -> dict[str, Floats]:
        """p(kind of person | their pairs) of each user_id in `pairs`: [H]."""
        return {
            str(user_id): posterior(
                self._people, self._settings, self._rate, self.looks(rows.chosen_uid), self.looks(rows.rejected_uid)
            )
            for user_id, rows in pairs.groupby("user_id", sort=False)
        }

    def likelihoods(self, pairs: pd.DataFrame) -> dict[str, Floats]:
        """p(their pairs | kind of person) of each user_id in `pairs`, up to a factor of its own: [H]."""
        out = {}
        for user_id, rows in pairs.groupby("user_id", sort=False):
            shown = self.looks(rows.chosen_uid), self.looks(rows.rejected_uid)
            log_p = choice_log_likelihood(self._people, self._settings, self._rate, *shown).sum(axis=0)
            out[str(user_id)] = np.exp(log_p - log_p.max())
        return out

    def tastes(self, beliefs: Mapping[str, Floats]) -> Tastes:
        """Everybody's mean taste under their belief."""
        return Tastes(tuple(beliefs), np.stack(list(beliefs.values())) @ self._people.tastes)

    def judge(self, beliefs: Mapping[str, Floats], requests: pd.DataFrame) -> Floats:
        """Whether each choice (user_id, chosen_uid, rejected_uid) is predicted: 1, 0, or .5 without a clue; [N]."""
        belief = np.stack([beliefs[user_id] for user_id in requests.user_id])
        p = predict_choice(
            self._people, self._settings, belief, self.looks(requests.chosen_uid), self.looks(requests.rejected_uid)
        )
        return np.asarray((np.sign(p - 0.5) + 1) / 2)
