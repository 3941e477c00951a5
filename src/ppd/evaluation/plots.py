"""The figures of the report, each as a PNG in memory. Drawn by matplotlib, without a display."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

INK, ACCENT, QUIET = "#1d2433", "#c2410c", "#94a3b8"
METHOD_COLOURS = {"ppd": ACCENT, "dpo": "#2563eb", "sft": "#059669"}
LARGE_PX = 128


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return buffer.getvalue()


def win_rate_plot(entries: Sequence[Mapping[str, object]]) -> bytes:
    """Horizontal intervals of win rates, one line an entry of win_rates.json, with the line of no difference."""
    figure = Figure(figsize=(8, 0.42 * len(entries) + 0.9))
    axes = figure.subplots()
    labels = [f"{e['method']} over {e['opponent']} · {e['users']} · {e['judge']}" for e in entries]
    y = np.arange(len(entries))[::-1]
    rate, low, high = (np.array([e[k] for e in entries], dtype=float) for k in ("win_rate", "ci_low", "ci_high"))
    colours = [METHOD_COLOURS.get(str(e["method"]), QUIET) for e in entries]
    axes.hlines(y, low, high, color=colours, linewidth=3, alpha=0.45)
    axes.scatter(rate, y, color=colours, zorder=3)
    axes.axvline(0.5, color=QUIET, linewidth=1, linestyle="--")
    for yi, r in zip(y, rate, strict=True):
        axes.annotate(f"{r:.2f}", (r, yi), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set(yticks=y, yticklabels=labels, xlim=(0.3, 1), xlabel="win rate, 95 % interval over users and captions")
    _plain(axes)
    return png(figure)


def curves_plot(curves: Mapping[str, pd.DataFrame]) -> bytes:
    """Loss, implicit accuracy on held-out people and gradient norm against steps, one line a method."""
    figure = Figure(figsize=(11, 3))
    left, middle, right = figure.subplots(1, 3)
    for method, curve in curves.items():
        colour = METHOD_COLOURS.get(method, QUIET)
        left.plot(curve.step, curve.loss.ewm(span=25).mean(), color=colour, label=method)
        exam = curve.dropna(subset=["held_out_accuracy"]) if "held_out_accuracy" in curve else curve.iloc[:0]
        middle.plot(exam.step, exam.get("held_out_accuracy"), color=colour, marker="o", markersize=3, label=method)
        right.plot(curve.step, curve.grad_norm.ewm(span=25).mean(), color=colour, label=method)
    left.set(title="loss", xlabel="step")
    middle.set(title="implicit accuracy, people never trained on", xlabel="step")
    right.set(title="gradient norm", xlabel="step", yscale="log")
    middle.axhline(0.5, color=QUIET, linewidth=1, linestyle="--")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        _plain(axes)
    return png(figure)


def interpolation_plot(shares: Sequence[float], utility_a: Sequence[float], utility_b: Sequence[float]) -> bytes:
    """What two people truly think of the pictures on the way from one to the other, in spreads of the base."""
    figure = Figure(figsize=(5, 2.6))
    axes = figure.subplots()
    axes.plot(shares, utility_a, color=ACCENT, marker="o", label="to the first person")
    axes.plot(shares, utility_b, color=METHOD_COLOURS["dpo"], marker="o", label="to the second person")
    axes.set(xlabel="share of the second person", ylabel="gain (SD of base)")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return png(figure)


def strip(images: Sequence[Pixels], columns: int, scale: int = 2, gap: int = 4) -> bytes:
    """Images [H, W, 3] of one size side by side on white, row by row; small ones are enlarged without smoothing."""
    height, width = images[0].shape[:2]
    scale = scale if width < LARGE_PX else 1
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    enlarged = Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    enlarged.save(buffer, "PNG")
    return buffer.getvalue()


def _plain(axes: "object") -> None:
    """Less ink: no frame above and to the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)  # type: ignore[attr-defined]
