"""Other embeddings in the place of the vision-language model's: what does each reader of the four choices cost?

true taste: the nine numbers that a simulated user's choices follow. posterior mean: the best that anybody can say of
them from the choices of a group. user types: `ppd.experiments.user_types`. All are whitened as the model's own are.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppd.experiments.models import embedding_model, user_embeddings
from ppd.experiments.user_types import UserTypes
from ppd.layout import Layout
from ppd.preferences.store import Preferences
from ppd.settings import Settings
from ppd.simulation.truth.exact import ExactObserver
from ppd.simulation.truth.utility import Tastes
from ppd.users.whitening import fit_on_users

Floats = NDArray[np.float64]
VLM = "VLM"


def embeddings_by(reader: str, settings: Settings, layout: Layout) -> dict[str, Tensor]:
    """All users' embeddings [groups, 1, dim] by one of `READERS`, a row for each of the groups that the VLM read."""
    if reader == VLM:
        return user_embeddings(layout)
    log = Preferences.open(layout.preferences)
    raw = READERS[reader](settings, layout, log)
    train = log.users.user_id[log.users.split == "train"]
    rows = {user_id: torch.from_numpy(groups).float().unsqueeze(1) for user_id, groups in raw.items()}
    trained = [rows[user_id] for user_id in sorted(train)]
    kept = min(trained[0].shape[-1], settings.embedding.components or trained[0].shape[-1])
    whitening = fit_on_users(trained, settings.embedding.model_copy(update={"components": kept}))
    return {user_id: whitening(groups) for user_id, groups in rows.items()}


def _true_taste(_: Settings, layout: Layout, log: Preferences) -> dict[str, Floats]:
    tastes, counts = Tastes.load(layout.truth), log.users.set_index("user_id").n_support_groups
    own = dict(zip(tastes.user_ids, tastes.weights, strict=True))
    return {str(user_id): np.repeat(own[str(user_id)][None], n, axis=0) for user_id, n in counts.items()}


def _posterior_mean(settings: Settings, layout: Layout, log: Preferences) -> dict[str, Floats]:
    observer, pairs = ExactObserver(layout.truth, settings.people), _support(log)
    numbered = pairs.assign(user_id=pairs.user_id + "\0" + pairs.support_group.astype(str))
    beliefs = observer.tastes(observer.beliefs(numbered))
    return _of_users([key.split("\0")[0] for key in beliefs.user_ids], beliefs.weights)


def _user_types(settings: Settings, layout: Layout, log: Preferences) -> dict[str, Floats]:
    """Their weights over types; how many types there are is chosen on validation users' held-out choices."""
    differences = feature_differences(settings, log)
    types = choose_types(log, differences)
    support = _support(log)
    groups = {key: differences[rows.index] for key, rows in support.groupby(["user_id", "support_group"], sort=False)}
    return _of_users([str(user_id) for user_id, _ in groups], types.describe(list(groups.values())))


READERS: Mapping[str, Callable[[Settings, Layout, Preferences], dict[str, Floats]]] = {
    "true taste": _true_taste,
    "posterior mean": _posterior_mean,
    "user types": _user_types,
}
N_TYPES = (8, 16, 32)


def feature_differences(settings: Settings, log: Preferences) -> Floats:
    """φ(chosen) − φ(rejected) of every pair of the log, in its order: [pairs, D].

    φ is the mean of what the vision tower of the same language model sees, so that both readers see alike.
    """
    vlm = embedding_model(settings)
    uids = sorted({*log.pairs.chosen_uid, *log.pairs.rejected_uid})
    seen = []
    for start in range(0, len(uids), settings.embedding.batch_size):
        images = log.image_bytes(uids[start : start + settings.embedding.batch_size])
        with torch.inference_mode():
            seen.append(vlm.vision.see(vlm.vision.prepare(images)).float().mean(dim=1).cpu())
    row = pd.Series(range(len(uids)), index=uids)
    features = torch.cat(seen).double().numpy()
    return np.asarray(features[row[log.pairs.chosen_uid]] - features[row[log.pairs.rejected_uid]])


def choose_types(log: Preferences, differences: Floats) -> UserTypes:
    """Types fitted on the training users' choices; as many as predict validation users' other choices best."""
    pairs = log.pairs.reset_index(drop=True)
    split = pairs.user_id.map(log.users.set_index("user_id").split)
    trained = pairs[(split == "train") & pairs.role.isin(["train", "support"])]
    users = [differences[rows.index] for _, rows in trained.groupby("user_id")]
    fits = [UserTypes.fit(users, n_types) for n_types in sorted({min(n, len(users)) for n in N_TYPES})]
    return max(fits, key=lambda types: log_likelihood(types, log, differences, "validation").mean())


def log_likelihood(types: UserTypes, log: Preferences, differences: Floats, which: str) -> Floats:
    """log p of each held-out choice of the users of a split, from their first group of support pairs: [choices]."""
    pairs = log.pairs.reset_index(drop=True)
    pairs = pairs[pairs.user_id.map(log.users.set_index("user_id").split) == which]
    first = pairs[(pairs.role == "support") & (pairs.support_group == 0)]
    own = {user_id: differences[rows.index] for user_id, rows in first.groupby("user_id")}
    weights = dict(zip(own, types.describe(list(own.values())), strict=True))
    asked = pairs[(pairs.role == "eval") & pairs.user_id.isin(list(own))]
    belonging = np.stack([weights[user_id] for user_id in asked.user_id])
    return np.asarray(np.log(types.predict(belonging, differences[asked.index])))


def _support(log: Preferences) -> pd.DataFrame:
    """Support pairs in the order of (user, group, pair), their index the row of the log's pairs."""
    pairs = log.pairs.reset_index(drop=True)
    return pairs[pairs.role == "support"].sort_values(["user_id", "support_group", "pair_id"])


def _of_users(user_ids: Sequence[str], rows: Floats) -> dict[str, Floats]:
    """Rows [N, D] of users, in the order of their groups -> [groups, D] of each."""
    groups: dict[str, list[Floats]] = {}
    for user_id, row in zip(user_ids, rows, strict=True):
        groups.setdefault(user_id, []).append(row)
    return {user_id: np.stack(own) for user_id, own in groups.items()}
