"""The plots of docs/experiments.md, each as a PNG in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppd.evaluation.plots import ACCENT, METHOD_COLOURS, QUIET, png
from ppd.evaluation.win_rates import Entry

BLUE = METHOD_COLOURS["dpo"]


def curve_plot(points: Sequence[tuple[float, Sequence[Entry]]]) -> bytes:
    """Win rate over base against CPU minutes of training, with other seeds and with the same."""
    figure = Figure(figsize=(5.5, 3))
    _rates_in_doublings(figure.subplots(), points, "CPU minutes of training")
    return png(figure)


def scaling_plot(points: Mapping[str, Sequence[tuple[float, Sequence[Entry]]]]) -> bytes:
    """Win rate over base against the number of training users, and of training pairs: what is on x -> x, win rates."""
    figure = Figure(figsize=(9, 3))
    for axes, (name, line) in zip(figure.subplots(1, len(points), sharey=True), points.items(), strict=True):
        _rates_in_doublings(axes, line, name)
    return png(figure)


def directions_plot(directions: Mapping[str, Any]) -> bytes:
    """How much of each direction's variance is between users, found in both ways; filled: what is read."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    found = directions["found"]
    for axes, (kind, rows) in zip(figure.subplots(len(found), 1, sharey=True), found.items(), strict=True):
        kept = directions["kept"] or len(rows) if kind == directions["read"] else 0
        at = np.arange(1, len(rows) + 1)
        mean, low, high = (np.array([row[key] for row in rows]) for key in ("mean", "ci_low", "ci_high"))
        if kept:
            axes.bar(at[:kept], mean[:kept], color=ACCENT, label="read by the adapter")
        axes.bar(at[kept:], mean[kept:], color=QUIET, label="left out")
        axes.errorbar(at, mean, yerr=[mean - low, high - mean], fmt="none", color="black", linewidth=1, capsize=2)
        axes.step(at, [row["variance_share"] for row in rows], where="mid", color=BLUE, label="share of all variance")
        axes.axhline(0, color="black", linewidth=0.8)
        _finish(axes, xlabel=f"{kind} direction, in order", ylabel="reliability")
    return png(figure)


def sampling_plot(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> bytes:
    """What each way to sample for a user gains, against the realism that is left; a line for each interval."""
    figure = Figure(figsize=(5.5, 3))
    axes = figure.subplots()
    for low in sorted({row["interval"][0] for row in rows}):
        line = [row for row in rows if row["interval"][0] == low]
        gains = [_over_base(row["win_rates"], "independent")["gain_sd"] for row in line]
        axes.plot([row["precision"]["mean"] for row in line], gains, marker="o", linewidth=1, label=f"t > {low:g}")
        for row, gain in zip(line, gains, strict=True):
            axes.annotate(f"{row['strength']:g}", (row["precision"]["mean"], gain), fontsize=7, xytext=(3, 3),
                          textcoords="offset points")  # fmt: skip
    axes.axvline(base["precision"]["mean"], color=QUIET, linewidth=1, linestyle="--")
    _finish(axes, xlabel="precision (dashed: the base)", ylabel="gain (SD of base)")
    return png(figure)


def interpolation_plot(users: Sequence[Mapping[str, Any]], rewards: Sequence[Mapping[str, Any]]) -> bytes:
    """Both ends' gains along the line between two users, and between two rewards."""
    pairs = sorted({(row["first"], row["second"]) for row in rewards})
    figure = Figure(figsize=(4 * (1 + len(pairs)), 3))
    lines = [("person", "another", users)]
    lines += [(a, b, [row for row in rewards if (row["first"], row["second"]) == (a, b)]) for a, b in pairs]
    for axes, (first, second, rows) in zip(np.atleast_1d(figure.subplots(1, len(lines))), lines, strict=True):
        for side, name, colour in (("gain_first", first, ACCENT), ("gain_second", second, BLUE)):
            shares, gains = [row["share"] for row in rows], [row[side] for row in rows]
            _errorbars(axes, shares, gains, "mean", "", color=colour, label=name)
        axes.axvspan(0, 1, color=QUIET, alpha=0.12)
        _finish(axes, xlabel=f"share of {second}", ylabel="gain (SD of base)")
    figure.tight_layout()
    return png(figure)


def stability_plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """How far the errors of winner (solid) and loser (dashed) lie above the base's during each training.

    A panel for each weight of the winner's anchor, a colour for each β.
    """
    anchors, betas = (sorted({row[name] for row in rows}) for name in ("winner_anchor", "beta"))
    figure = Figure(figsize=(4.5 * len(anchors), 3), layout="constrained")
    panels = figure.subplots(1, len(anchors), sharey=True, squeeze=False)[0]
    for axes, anchor in zip(panels, anchors, strict=True):
        for row in rows:
            if row["winner_anchor"] != anchor:
                continue
            steps = [point["step"] for point in row["curve"]]
            colour = f"C{betas.index(row['beta'])}"
            for side, line in (("winner", "-"), ("loser", "--")):
                values = [100 * point[side] for point in row["curve"]]
                label = f"β {row['beta']:g}" if side == "winner" else None
                axes.plot(steps, values, line, color=colour, linewidth=1, label=label)
        axes.axhline(0, color="black", linewidth=0.8)
        _finish(axes, xlabel="step", title=f"winner's anchor {anchor:g}")
    panels[0].set_ylabel("error above the base's (%)")
    panels[0].set_yscale("symlog", linthresh=5)
    return png(figure)


def _over_base(rates: Sequence[Entry], pairing: str) -> Entry:
    return next(rate for rate in rates if rate["opponent"] == "base" and rate["pairing"] == pairing)


def _errorbars(axes: Axes, x: Sequence[float], values: Sequence[Entry], key: str, prefix: str, **look: Any) -> None:
    y, low, high = (np.array([value[k] for value in values]) for k in (key, f"{prefix}ci_low", f"{prefix}ci_high"))
    axes.errorbar(x, y, yerr=[y - low, high - y], marker="o", capsize=2, linewidth=1, **look)


def _rates_in_doublings(axes: Axes, points: Sequence[tuple[float, Sequence[Entry]]], x_label: str) -> None:
    """Win rates over base, other seeds and the same, at each x; chance as a dashed line."""
    for pairing, colour in (("independent", ACCENT), ("same-seed", BLUE)):
        rates = [_over_base(rates, pairing) for _, rates in points]
        _errorbars(axes, [x for x, _ in points], rates, "win_rate", "", color=colour, label=pairing)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axhline(0.5, color=QUIET, linewidth=1, linestyle="--")
    _finish(axes, xlabel=x_label, ylabel="win rate over base")


def _finish(axes: Axes, *, legend: bool = True, **labels: Any) -> None:
    axes.set(**labels)
    if legend:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
