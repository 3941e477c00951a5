"""The plots of docs/experiments.md, each as a PNG in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppd.evaluation.plots import ACCENT, METHOD_COLOURS, QUIET, png

Result = Mapping[str, Any]
BLUE = METHOD_COLOURS["dpo"]


def curve_plot(points: Sequence[tuple[float, Sequence[Result]]]) -> bytes:
    """Win rate over base against CPU minutes of training, with other seeds and with the same."""
    figure = Figure(figsize=(5.5, 3))
    axes = figure.subplots()
    for pairing, colour in (("independent", ACCENT), ("same-seed", BLUE)):
        rates = [_over_base(rates, pairing) for _, rates in points]
        _errorbars(axes, [minutes for minutes, _ in points], rates, "win_rate", "", colour, pairing)
    _finish(axes, "CPU minutes of training", "win rate over base")
    return png(figure)


def scaling_plot(points: Mapping[str, Sequence[Result]]) -> bytes:
    """Win rate over base against the number of training people, and of training pairs."""
    figure = Figure(figsize=(9, 3))
    names = {"n_train_users": "training users", "n_train_pairs": "training pairs, all people together"}
    for axes, (axis, results) in zip(figure.subplots(1, len(points), sharey=True), points.items(), strict=True):
        for pairing, colour in (("independent", ACCENT), ("same-seed", BLUE)):
            rates = [_over_base(result["users"]["validation"]["win_rates"], pairing) for result in results]
            _errorbars(axes, [result[axis] for result in results], rates, "win_rate", "", colour, pairing)
        _finish(axes, names[axis], "win rate over base")
    return png(figure)


def directions_plot(directions: Result) -> bytes:
    """How much of each principal direction's variance lies between people; filled: what the adapter reads."""
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    rows = directions["rows"]
    kept = len(rows) if directions["kept"] is None else directions["kept"]
    at = np.arange(1, len(rows) + 1)
    mean, low, high = (np.array([row[key] for row in rows]) for key in ("mean", "ci_low", "ci_high"))
    axes.bar(at[:kept], mean[:kept], color=ACCENT, label="read by the adapter")
    axes.bar(at[kept:], mean[kept:], color=QUIET, label="left out")
    axes.errorbar(at, mean, yerr=[mean - low, high - mean], fmt="none", color="black", linewidth=1, capsize=2)
    axes.step(at, [row["variance_share"] for row in rows], where="mid", color=BLUE, label="share of all variance")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="principal direction, by variance", ylabel="reliability")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def guidance_plot(guidance: Result) -> bytes:
    """What each strength of the person gains, and the content and realism that are left."""
    figure = Figure(figsize=(9, 3))
    left, right = figure.subplots(1, 2)
    rows = guidance["rows"]
    strengths = [row["strength"] for row in rows]
    rates = [_over_base(row["win_rates"], "independent") for row in rows]
    _errorbars(left, strengths, rates, "gain_sd", "gain_sd_", ACCENT, "gain in utility (SD of base)")
    left.set(xlabel="user guidance", ylabel="gain (SD of base)")
    for key, colour in (("concept_accuracy", BLUE), ("precision", ACCENT)):
        right.plot(strengths, [row[key] for row in rows], marker="o", color=colour, label=key.replace("_", " "))
        right.axhline(guidance["base"][key], color=colour, linewidth=1, linestyle="--")
    right.set(xlabel="user guidance", ylim=(0, 1.02), title="dashed: the base", ylabel="share of images")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def ways_plot(people: Sequence[Result], rewards: Sequence[Result]) -> bytes:
    """Both ends' gains along the line between two people, and between two rewards."""
    pairs = sorted({(row["first"], row["second"]) for row in rewards})
    figure = Figure(figsize=(4 * (1 + len(pairs)), 3))
    lines = [("person", "another", people)]
    lines += [(a, b, [row for row in rewards if (row["first"], row["second"]) == (a, b)]) for a, b in pairs]
    for axes, (first, second, rows) in zip(np.atleast_1d(figure.subplots(1, len(lines))), lines, strict=True):
        for side, name, colour in (("gain_first", first, ACCENT), ("gain_second", second, BLUE)):
            _errorbars(axes, [row["share"] for row in rows], [row[side] for row in rows], "mean", "", colour, name)
        axes.set(xlabel=f"share of {second}", ylabel="gain (SD of base)")
        axes.axvspan(0, 1, color=QUIET, alpha=0.12)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return png(figure)


def _over_base(rates: Sequence[Result], pairing: str) -> Result:
    return next(rate for rate in rates if rate["opponent"] == "base" and rate["pairing"] == pairing)


def _errorbars(
    axes: Axes, x: Sequence[float], values: Sequence[Result], key: str, prefix: str, colour: str, label: str
) -> None:
    y, low, high = (np.array([value[k] for value in values]) for k in (key, f"{prefix}ci_low", f"{prefix}ci_high"))
    axes.errorbar(x, y, yerr=[y - low, high - y], marker="o", color=colour, label=label, capsize=2, linewidth=1)


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    """x in doublings; chance as a dashed line."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle="--")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
