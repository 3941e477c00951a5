"""docs/experiments.md: every table and plot of the experiments, made from their result files and from nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppd.experiments.figures import curve_plot, directions_plot, guidance_plot, scaling_plot, ways_plot
from ppd.experiments.settings import ExperimentSettings
from ppd.files import atomic_path
from ppd.statistics.bootstrap import clustered_mean

Result = Mapping[str, Any]
SECTIONS = ("users", "implicit", "identification", "guidance", "rewards", "interpolation")
"""The experiments with a result file of their own, beside the ablations."""


def write_page(experiments: ExperimentSettings, results: Path, page: Path) -> None:
    """Write `page` and, beside it, its plots. An experiment without a result file has no section yet."""
    found = read_results(results)
    for name, figure in figures(found, experiments).items():
        with atomic_path(page.parent / f"experiments-{name}.png") as fresh:
            fresh.write_bytes(figure)
    for name in ("interpolation", "rewards"):
        if (strips := results / f"{name}.png").exists():
            with atomic_path(page.parent / f"experiments-{name}-strips.png") as fresh:
                fresh.write_bytes(strips.read_bytes())
    with atomic_path(page) as fresh:
        fresh.write_text(render(found, experiments), encoding="utf-8")


def read_results(results: Path) -> dict[str, Any]:
    """The result files by name; `ablation` is a dictionary of the variants that have run."""
    found: dict[str, Any] = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
    found["ablation"] = {
        file.stem: json.loads(file.read_text()) for file in sorted((results / "ablation").glob("*.json"))
    }
    return found


def render(found: Mapping[str, Any], experiments: ExperimentSettings) -> str:
    """The page's text."""
    environment = Environment(
        loader=PackageLoader("ppd.experiments"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": share, "interval": interval, "signed": signed}
    ablation = found["ablation"]
    return environment.get_template("experiments.md").render(
        experiments=experiments,
        found=found,
        rates=entry,
        tables=ablation_tables(ablation, experiments),
        confirmed=confirmed_rows(ablation, experiments),
        curve=curve_rows(found),
        missing=[name for name in SECTIONS if name not in found],
        missing_variants=[name for name in experiments.variants if name not in ablation],
    )


def entry(result: Result, **wanted: str) -> Result | None:
    """The win rate among result["win_rates"] that has these values; None where there is none."""
    for rate in result["win_rates"]:
        if all(rate[key] == value for key, value in wanted.items()):
            return rate
    return None


def share(value: float) -> str:
    """.79 for 0.79."""
    return f"{value:.3f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}"


def interval(value: Result, key: str = "mean", prefix: str = "") -> str:
    """The number under `key` and its interval: .79 [.76, .82]."""
    low, high = value[f"{prefix}ci_low"], value[f"{prefix}ci_high"]
    return f"{share(value[key])} [{share(low)}, {share(high)}]"


def signed(value: Result) -> str:
    """A difference and its interval: +.12 [+.03, +.21]."""
    return f"{value['mean']:+.2f} [{value['ci_low']:+.2f}, {value['ci_high']:+.2f}]"


def difference(variant: Result, default: Result, group: str = "validation") -> dict[str, Any]:
    """What each person gains by `variant` over `default`, paired, with its interval over people, and what that says."""
    ours, theirs = (result["users"][group]["gain_by_user"] for result in (variant, default))
    people = sorted(ours)
    gap = clustered_mean(np.array([ours[user] - theirs[user] for user in people]), np.arange(len(people)))
    says = "better" if gap.low > 0 else "worse" if gap.high < 0 else "no difference seen"
    return {**gap.as_row(), "says": says}


def ablation_tables(ablation: Mapping[str, Result], experiments: ExperimentSettings) -> dict[str, list[dict[str, Any]]]:
    """What is varied -> a row for each variant that has run, the default first; empty before the default has."""
    if "default" not in ablation:
        return {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, variant in experiments.variants.items():
        if name != "default" and name in ablation:
            row = {"result": ablation[name], "difference": difference(ablation[name], ablation["default"])}
            tables.setdefault(variant.varies, []).append(row)
    return tables


def confirmed_rows(ablation: Mapping[str, Result], experiments: ExperimentSettings) -> list[dict[str, Any]]:
    """The variants that were also drawn for test people, each with the default's gain over it."""
    return [
        {
            "result": ablation[name],
            "difference": difference(ablation["default"], ablation[name], "test") if name != "default" else None,
        }
        for name in experiments.trial.confirmed
        if name in ablation and "test" in ablation[name]["users"] and "default" in ablation
    ]


def curve_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Win rate on validation people after more and more training: the trials' lengths, then the headline runs."""
    trials = [
        result
        for result in found["ablation"].values()
        if result["varies"] == "training steps" or result["variant"] == "default"
    ]
    rows = [
        {
            "what": "trial",
            "steps": result["steps"],
            "pairs": result["steps"] * result["pairs_per_step"],
            "cpu_min": result["train_cpu_s"] / 60,
            "win_rates": result["users"]["validation"]["win_rates"],
        }
        for result in sorted(trials, key=lambda result: int(result["steps"]))
    ]
    if "guidance" in found:
        headline = found["guidance"]["headline"]
        as_trained = next(row for row in found["guidance"]["rows"] if row["strength"] == 1.0)
        rows.append(
            {
                "what": "the pipeline's run",
                "steps": headline["steps"],
                "pairs": headline["steps"] * headline["pairs_per_step"],
                "cpu_min": headline["train_cpu_s"] / 60,
                "win_rates": as_trained["win_rates"],
            }
        )
    return rows


def figures(found: Mapping[str, Any], experiments: ExperimentSettings) -> dict[str, bytes]:
    """The plots, each as a PNG, of whatever has been run."""
    drawn: dict[str, bytes] = {}
    if rows := curve_rows(found):
        drawn["curve"] = curve_plot([(row["cpu_min"], row["win_rates"]) for row in rows])
    if ablation_tables(found["ablation"], experiments):
        drawn["scaling"] = scaling_plot(scaling_points(found["ablation"]))
    if "identification" in found:
        drawn["directions"] = directions_plot(found["identification"]["directions"])
    if "guidance" in found:
        drawn["guidance"] = guidance_plot(found["guidance"])
    if "interpolation" in found:
        rewards = found["rewards"]["interpolations"] if "rewards" in found else []
        drawn["interpolations"] = ways_plot(found["interpolation"]["rows"], rewards)
    return drawn


def scaling_points(ablation: Mapping[str, Result]) -> dict[str, Sequence[Result]]:
    """People and pairs -> the variants that differ in nothing else, the fewest first."""
    axes = {"n_train_users": "training users", "n_train_pairs": "pairs per user"}
    return {
        axis: sorted(
            (r for r in ablation.values() if r["varies"] == varied or r["variant"] == "default"),
            key=lambda result: int(result[axis]),
        )
        for axis, varied in axes.items()
    }
