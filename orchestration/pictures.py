"""Pictures and tables as markdown, the only form in which the Dagster UI shows them. Drawn without torch."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ppd.evaluation.plots import ACCENT, INK, METHOD_COLOURS, QUIET, png, strip

SPLIT_COLOURS = {"train": METHOD_COLOURS["dpo"], "validation": METHOD_COLOURS["sft"], "test": ACCENT}

DIALOG_PX = 720
THUMBNAIL_PX = 64


def picture(drawn: bytes) -> str:
    """A PNG inside markdown, no wider than the dialog that shows it, in at most 128 colours: a third of the weight."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(drawn)).convert("RGB")
    image.thumbnail((DIALOG_PX, image.height), Image.Resampling.LANCZOS)
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return f"![](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def table(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Rows of the same columns as a markdown table; "nothing" when there are none."""
    if not rows:
        return "nothing"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def images(encoded: Iterable[bytes]) -> str:
    """Encoded images in a row, as thumbnails."""
    opened = (Image.open(io.BytesIO(each)).convert("RGB") for each in encoded)
    pixels = [np.asarray(ImageOps.pad(image, (THUMBNAIL_PX, THUMBNAIL_PX), color="white")) for image in opened]
    return picture(strip(pixels, columns=len(pixels), scale=1))


def embeddings_of(shards: Path) -> pd.Series:
    """The mean embedding of each user over their groups, flat, by user_id, from all shards in this folder."""
    columns = ["user_id", "hidden"]
    files = sorted(shards.glob("*/embeddings.parquet"))
    rows = pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)
    return rows.groupby("user_id").hidden.agg(lambda hidden: np.mean(np.stack(hidden.to_list()), axis=0))


def user_map(embeddings: pd.Series, split: pd.Series, marked: str | None = None) -> bytes:
    """All users' embeddings on its two principal components, coloured by split, with one user marked if wanted.

    embeddings: user_id -> [dim]; split: user_id -> train | validation | test.
    """
    hidden = np.stack(embeddings.to_list()).astype(np.float64)
    places, shares = _principal(hidden)
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    own = split.reindex(embeddings.index)
    for name, colour in SPLIT_COLOURS.items():
        these = (own == name).to_numpy()
        axes.scatter(
            places[these, 0],
            places[these, 1],
            s=10,
            color=colour,
            alpha=0.6,
            linewidths=0,
            label=f"{name} ({these.sum()})",
        )
    if marked is not None:
        x, y = places[embeddings.index.get_loc(marked)].tolist()
        axes.scatter(x, y, s=90, facecolors="none", edgecolors=INK, linewidths=1.5)
        axes.annotate(marked, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9)
    axes.set(xlabel=f"first component ({shares[0]:.0%} of variance)", ylabel=f"second component ({shares[1]:.0%})")
    axes.tick_params(color=QUIET, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return png(figure)


def trend_plot(points: pd.DataFrame) -> bytes:
    """Win rates against dates with their intervals, a line a judge: rows of date, judge, win_rate, ci_low, ci_high."""
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    for colour, (judge, rows) in zip((ACCENT, METHOD_COLOURS["dpo"]), points.groupby("judge"), strict=False):
        spread = [rows.win_rate - rows.ci_low, rows.ci_high - rows.win_rate]
        axes.errorbar(
            pd.to_datetime(rows.date), rows.win_rate, spread, color=colour, marker="o", capsize=3, label=judge
        )
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle="--")
    axes.set(ylabel="win rate over base, unseen users", ylim=(0.3, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.autofmt_xdate()
    return png(figure)


def _principal(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places [N, 2] on the two directions of largest variance, and their shares of it."""
    centred = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(rows), 2))
    places[:, : len(values)] = (left * values)[:, :2]
    shares = np.zeros(2)
    shares[: len(values)] = (values**2 / max(float((values**2).sum()), 1e-30))[:2]
    return places, shares
