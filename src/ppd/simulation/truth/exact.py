"""What choices say about users when nothing is lost: the true attributes of the shown images, and Bayes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.preferences.store import Preferences
from ppd.settings import PeopleSettings
from ppd.simulation.posterior import choice_log_likelihood, opinion_rate, posterior, predict_choice
from ppd.simulation.truth.utility import IMAGES, Tastes
from ppd.simulation.users import population
from ppd.simulation.world import FACTORS, STYLES, features
from ppd.stored_tables import read_frame

Floats = NDArray[np.float64]


class ExactObserver:
    """Infers tastes from pairs by Bayes. It knows the prior over users and how they choose, which no model knows."""

    def __init__(self, truth: Path, settings: PeopleSettings) -> None:
        images = read_frame(truth / IMAGES).set_index("image_uid")
        factors = images[[factor.name for factor in FACTORS]].to_numpy()
        self._row = pd.Series(range(len(images)), index=images.index)
        self._features = features(np.eye(len(STYLES))[images["style"]], factors)
        self._settings, self._people = settings, population(settings)
        self._rate = opinion_rate(self._people, settings)

    def features(self, uids: pd.Series) -> Floats:
        """Features of the images with these uids: [N, 9]."""
        return self._features[self._row[uids]]

    def beliefs(self, pairs: pd.DataFrame) -> dict[str, Floats]:
        """p(kind of person | their pairs) of each user_id in `pairs`: [H]."""
        known = self._people, self._settings, self._rate
        return {user_id: posterior(*known, *shown) for user_id, shown in self._by_user(pairs)}

    def likelihoods(self, pairs: pd.DataFrame) -> dict[str, Floats]:
        """p(their pairs | kind of person) of each user_id in `pairs`, up to a factor of its own: [H]."""
        out = {}
        for user_id, shown in self._by_user(pairs):
            log_p = choice_log_likelihood(self._people, self._settings, self._rate, *shown).sum(axis=0)
            out[user_id] = np.exp(log_p - log_p.max())
        return out

    def _by_user(self, pairs: pd.DataFrame) -> Iterator[tuple[str, tuple[Floats, Floats]]]:
        for user_id, rows in pairs.groupby("user_id", sort=False):
            yield str(user_id), (self.features(rows.chosen_uid), self.features(rows.rejected_uid))

    def tastes(self, beliefs: Mapping[str, Floats]) -> Tastes:
        """Each user's mean taste under what is believed of them."""
        return Tastes(tuple(beliefs), np.stack([belief @ self._people.tastes for belief in beliefs.values()]))

    def judge(self, beliefs: Mapping[str, Floats], choices: pd.DataFrame) -> Floats:
        """Whether each choice (user_id, chosen_uid, rejected_uid) is predicted: 1, 0, or .5 without a clue; [N]."""
        belief = np.stack([beliefs[user_id] for user_id in choices.user_id])
        shown = self.features(choices.chosen_uid), self.features(choices.rejected_uid)
        p = predict_choice(self._people, self._settings, belief, *shown)
        return np.asarray((np.sign(p - 0.5) + 1) / 2)


def support_pairs(preferences: Preferences, user_ids: list[str], n_pairs: int) -> pd.DataFrame:
    """The first `n_pairs` support pairs of each user as rows of the log: user_id, chosen_uid, rejected_uid."""
    pairs = preferences.pairs[(preferences.pairs.role == "support") & preferences.pairs.user_id.isin(user_ids)]
    ordered = pairs.sort_values(["user_id", "support_group", "pair_id"])
    return ordered.groupby("user_id", sort=False).head(n_pairs)
