"""Where users lie beside each other: their mean embeddings on two components, kept on disk until a shard changes.

At 5,000 users and 14,000 dimensions the embeddings are a gigabyte, and every picture of a user shows all of them: so
they are read once, and sensors and steps share what came of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestration.pictures import SPLIT_COLOURS
from ppd.evaluation.plots import INK, QUIET, png
from ppd.files import atomic_path
from ppd.layout import Layout

_SKETCH, _ITERATIONS = 16, 4
_KEPT, _ABOUT = "runs/user_map.parquet", b"ppd"


@dataclass(frozen=True)
class UserMap:
    """user_id -> x, y, and the shares of the variance that the two components have."""

    places: pd.DataFrame
    shares: tuple[float, float]

    def draw(self, split: pd.Series, marked: str | None = None) -> bytes:
        """All users, coloured by split (user_id -> train | validation | test), with one user marked if wanted."""
        figure = Figure(figsize=(5, 4))
        axes = figure.subplots()
        own = split.reindex(self.places.index)
        for name, colour in SPLIT_COLOURS.items():
            x, y = self.places.to_numpy()[(own == name).to_numpy()].T
            axes.scatter(x, y, s=10, color=colour, alpha=0.6, linewidths=0, label=f"{name} ({len(x)})")
        if marked is not None and marked in self.places.index:
            x, y = self.places.to_numpy()[self.places.index.get_loc(marked)].tolist()
            axes.scatter(x, y, s=90, facecolors="none", edgecolors=INK, linewidths=1.5)
            axes.annotate(marked, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9, parse_math=False)
        first, second = self.shares
        axes.set(xlabel=f"first component ({first:.0%} of variance)", ylabel=f"second component ({second:.0%})")
        axes.tick_params(color=QUIET, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        return png(figure)


def read_user_map(root: Path) -> UserMap:
    """The map of the shards as they are now; computed when one of them has changed."""
    shards, kept = Layout(root).shard_files(), root / _KEPT
    version = json.dumps([[file.parent.name, file.stat().st_size, file.stat().st_mtime_ns] for file in shards])
    if kept.exists():
        table = pq.read_table(kept)
        about = json.loads(table.schema.metadata[_ABOUT])
        if about["version"] == version:
            return UserMap(table.to_pandas().set_index("user_id"), tuple(about["shares"]))
    user_ids, means = mean_embeddings(shards)
    places, shares = principal(means)
    fresh = pa.table({"user_id": user_ids, "x": places[:, 0], "y": places[:, 1]})
    about = {"version": version, "shares": shares.tolist()}
    with atomic_path(kept) as file:
        pq.write_table(fresh.replace_schema_metadata({_ABOUT: json.dumps(about).encode()}), file)
    return UserMap(fresh.to_pandas().set_index("user_id"), (float(shares[0]), float(shares[1])))


def mean_embeddings(shards: tuple[Path, ...]) -> tuple[list[str], NDArray[np.float32]]:
    """user_ids, and the mean of each one's embeddings over their groups: [users, dim].

    Shards of another width than most have (embedded by another model, while a run replaces them) are left out.
    """
    found = [(ids, means) for ids, means in map(_means_of_shard, shards) if len(ids)]
    if not found:
        return [], np.zeros((0, 2), np.float32)
    widths = [means.shape[1] for _, means in found]
    width = max(set(widths), key=widths.count)
    kept = [(ids, means) for ids, means in found if means.shape[1] == width]
    return [user_id for ids, _ in kept for user_id in ids], np.concatenate([means for _, means in kept])


def hidden_of(file: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Whose each embedding of a shard is, and the embeddings [groups, dim], without a Python object for each number."""
    table = pq.read_table(file, columns=["user_id", "hidden"])
    flat = table["hidden"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return table["user_id"].to_pylist(), flat.reshape(table.num_rows, -1) if table.num_rows else flat.reshape(0, 0)


def _means_of_shard(file: Path) -> tuple[list[str], NDArray[np.float32]]:
    rows, hidden = hidden_of(file)
    codes, user_ids = pd.factorize(np.asarray(rows, dtype=object))
    means = np.zeros((len(user_ids), hidden.shape[1]), np.float32)
    np.add.at(means, codes, hidden)
    return list(user_ids), np.nan_to_num(means / np.maximum(np.bincount(codes, minlength=len(user_ids)), 1)[:, None])


def principal(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places [N, 2] on the two directions of largest variance, and their shares of it.

    By a randomised range finder (Halko, Martinsson, Tropp 2011, algorithm 4.4): the whole decomposition of 5,000 x
    14,000 numbers takes minutes.
    """
    centred = rows - rows.mean(axis=0, keepdims=True) if len(rows) else rows
    places, shares = np.zeros((len(rows), 2)), np.zeros(2)
    total = float(np.einsum("nd,nd->", centred, centred, dtype=np.float64))
    if total == 0.0:
        return places, shares
    start = np.random.default_rng(0).normal(size=(rows.shape[1], min(_SKETCH, *rows.shape))).astype(np.float32)
    basis = np.linalg.qr(centred @ start)[0]
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(centred @ np.linalg.qr(centred.T @ basis)[0])[0]
    left, values, directions = np.linalg.svd(basis.T @ centred, full_matrices=False)
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    found = (basis @ left * values * signs)[:, :2]
    places[:, : found.shape[1]] = found
    shares[: found.shape[1]] = (values**2 / total)[:2]
    return places, shares
