"""Does an embedding say who someone is? A second group of a user's choices must find the first among N users.

The two groups share no caption, since users repeat captions and captions are in the embedding's input. None of the N
was trained on; what tells embeddings apart is learned on the training users alone.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ppd.experiments.models import embedding_model
from ppd.experiments.settings import ExperimentSettings
from ppd.files import write_json
from ppd.layout import Layout
from ppd.preferences.images import open_rgb
from ppd.preferences.store import Preferences
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import Settings
from ppd.simulation.truth.exact import ExactObserver
from ppd.statistics.bootstrap import clustered_mean
from ppd.users.directions import held_out_reliabilities
from ppd.users.embeddings import load_embeddings
from ppd.users.support import SupportGroup, support_groups
from ppd.vlm.embedding import embed

Floats = NDArray[np.float64]
TOPS = (1, 4, 16)
N_DIRECTIONS = 32
Key = tuple[str, int]
"""(user_id, support group)."""


def write_identification(settings: Settings, _: ExperimentSettings, layout: Layout) -> None:
    """Measure every layer and every baseline on the test users, and write the result.

    Beside them, from the training users: how reliable each direction of the layer that the adapter reads is.
    """
    log = Preferences.open(layout.preferences)
    train, test = (log.users.user_id[log.users.split == split].tolist() for split in ("train", "test"))
    chosen = disjoint_groups(log, test)
    groups = {(g.user_id, g.support_group): g for g in support_groups(log, [*train, *chosen])}
    groups = {key: g for key, g in groups.items() if key[0] not in chosen or key[1] in chosen[key[0]]}
    hidden = load_embeddings([layout.shared_inputs / "prompt-end.parquet"]).hidden
    shown = {(user_id, group): hidden[user_id][group].double().numpy() for user_id, group in groups}
    n_rows = next(iter(shown.values())).shape[0]
    views: dict[str, dict[Key, Floats]] = {
        f"layer {row}": {key: hidden[row] for key, hidden in shown.items()} for row in range(n_rows)
    }
    views["all layers"] = {key: hidden.reshape(-1) for key, hidden in shown.items()}
    blank = _blank_layers(settings, groups)
    views["captions only (all layers, blank images)"] = {key: hidden.reshape(-1) for key, hidden in blank.items()}
    views |= _image_features(ClipScorer.from_pretrained(settings.models.clip), groups)
    rows = []
    for name, view in views.items():
        metric = discriminant(_by_user(view, train))
        first, second = (
            np.stack([view[user_id, pair[side]] for user_id, pair in chosen.items()]) @ metric for side in (0, 1)
        )
        rows.append({"view": name, **hit_rates(_unit(second) @ _unit(first).T)})
    exact = ExactObserver(layout.truth, settings.people)
    rows.append({"view": "exact posterior", **hit_rates(exact_scores(exact, log, chosen))})
    read = range(n_rows)[settings.embedding.rows[-1] if settings.embedding.rows else -1]
    trained = {user_id: hidden[user_id][:, read] for user_id in train}
    several = [len(embeddings) for embeddings in trained.values() if len(embeddings) > 1]
    found = {
        kind: held_out_reliabilities(
            trained,
            settings.embedding.model_copy(update={"directions": kind}),
        )[:N_DIRECTIONS]
        for kind in ("discriminant", "principal")
    }
    result = {
        "n_users": len(chosen),
        "chance": {f"top_{k}": k / len(chosen) for k in TOPS},
        "rows": rows,
        "directions": {
            "found": found,
            "read": settings.embedding.directions,
            "kept": settings.embedding.components,
            "n_users": len(several),
            "n_groups": sum(several),
        },
    }
    write_json(layout.experiment_results / "identification.json", result)


def disjoint_groups(preferences: Preferences, user_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The first two support groups of each user that share no caption; users without two are left out."""
    pairs = preferences.pairs[(preferences.pairs.role == "support") & preferences.pairs.user_id.isin(list(user_ids))]
    chosen: dict[str, tuple[int, int]] = {}
    for user_id, rows in pairs.groupby("user_id"):
        captions: dict[int, set[str]] = {}
        for group, caption in zip(rows.support_group.tolist(), rows.caption, strict=True):
            captions.setdefault(group, set()).add(caption)
        found = [(a, b) for a in captions for b in captions if a < b and not captions[a] & captions[b]]
        if found:
            chosen[str(user_id)] = min(found)
    return chosen


def discriminant(users: list[Floats], shrinkage: float = 0.1) -> Floats:
    """A linear map [D, D'] after which groups of one user are close and users apart, from [groups, D] of each.

    Linear discriminant analysis: whitens what varies within a user, its spectrum first shrunk towards its mean, and
    keeps the directions in which users differ more than that.
    """
    users = [groups for groups in users if len(groups) > 1]
    within = np.concatenate([groups - groups.mean(axis=0) for groups in users])
    spectrum, directions = np.linalg.eigh(within.T @ within / (len(within) - len(users)))
    spectrum = (1 - shrinkage) * spectrum.clip(0) + shrinkage * spectrum.mean()
    whiten = directions / np.sqrt(np.maximum(spectrum, 1e-12))
    centres = np.stack([groups.mean(axis=0) for groups in users])
    between = (centres - centres.mean(axis=0)) @ whiten
    strength, axes = np.linalg.eigh(between.T @ between / len(between))
    kept = axes[:, np.argsort(-strength)[: min(32, len(users) - 1)]]
    return np.asarray(whiten @ kept)


def hit_rates(scores: Floats) -> dict[str, dict[str, float]]:
    """Top-k accuracy with its interval over users: scores [N, N], the right ones on the diagonal.

    Who shares the right one's score is put in random order: so many of the first k places are expected to be right.
    """
    right = np.diag(scores)[:, None]
    above, level = (scores > right).sum(axis=1), (scores == right).sum(axis=1)
    hits = {k: ((k - above) / level).clip(0, 1) for k in TOPS}
    return {f"top_{k}": clustered_mean(hit, np.arange(len(scores))).as_row() for k, hit in hits.items()}


def exact_scores(exact: ExactObserver, log: Preferences, chosen: Mapping[str, tuple[int, int]]) -> Floats:
    """Bayes: p(second choices | what the first say of each user)."""
    pairs = log.pairs[log.pairs.role == "support"]
    first, second = (
        pairs[pairs.support_group == pairs.user_id.map({user_id: groups[side] for user_id, groups in chosen.items()})]
        for side in (0, 1)
    )
    beliefs, likelihoods = exact.beliefs(first), exact.likelihoods(second)
    return np.stack([likelihoods[u] for u in chosen]) @ np.stack([beliefs[u] for u in chosen]).T


def _by_user(view: Mapping[Key, Floats], user_ids: Iterable[str]) -> list[Floats]:
    """[groups, D] of each of these users."""
    groups: dict[str, list[Floats]] = {}
    for (user_id, _), embedding in view.items():
        groups.setdefault(user_id, []).append(embedding)
    return [np.stack(groups[user_id]) for user_id in user_ids]


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def _blank_layers(settings: Settings, groups: Mapping[Key, SupportGroup]) -> dict[Key, Floats]:
    """The same conversations with every image a grey one: what the captions alone give away."""
    buffer = io.BytesIO()
    Image.new("RGB", (settings.models.image_px,) * 2, (128, 128, 128)).save(buffer, "PNG")
    grey = buffer.getvalue()
    blind = [tuple(replace(pair, preferred=grey, rejected=grey) for pair in group.pairs) for group in groups.values()]
    vlm = embedding_model(settings)
    every_layer = settings.embedding.model_copy(update={"rows": None, "read": "prompt-end", "max_new_tokens": 0})
    return dict(zip(groups, embed(vlm, blind, every_layer).hidden.double().numpy(), strict=True))


def _image_features(clip: ClipScorer, groups: Mapping[Key, SupportGroup]) -> dict[str, dict[Key, Floats]]:
    """Without any language model: means of CLIP's image features over the pairs of a group."""
    liked, difference = {}, {}
    for key, group in groups.items():
        files = [file for pair in group.pairs for file in (pair.preferred, pair.rejected)]
        images = [np.asarray(open_rgb(file)) for file in files]
        features = torch.as_tensor(clip.embed_images(images)).double().numpy()
        liked[key] = features[0::2].mean(axis=0)
        difference[key] = (features[0::2] - features[1::2]).mean(axis=0)
    return {"mean image features, preferred": liked, "mean image features, preferred − rejected": difference}
