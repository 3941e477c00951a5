"""docs/experiments.md: every table and plot of the experiments, made from their result files and from nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppd.evaluation.win_rates import Entry
from ppd.experiments.figures import (
    curve_plot,
    directions_plot,
    interpolation_plot,
    sampling_plot,
    scaling_plot,
    stability_plot,
)
from ppd.experiments.settings import ExperimentSettings
from ppd.files import atomic_path, read_json
from ppd.layout import Layout
from ppd.settings import Settings
from ppd.statistics.bootstrap import clustered_mean

Result = Mapping[str, Any]
SECTIONS = (
    "users",
    "best_of_n",
    "decomposition",
    "implicit",
    "identification",
    "sampling",
    "fresh_people",
    "rewards",
    "interpolation",
    "flow",
)
"""The experiments with a result file of their own, beside the ablations."""


def write_page(_: Settings, experiments: ExperimentSettings, layout: Layout) -> None:
    """Write the page and, beside it, its plots. An experiment without a result file has no section yet."""
    results, page = layout.experiment_results, layout.experiment_page
    found = read_results(results)
    images = figures(found, experiments)
    for name in ("interpolation", "rewards", "flow"):
        if (strips := results / f"{name}.png").exists():
            images[f"{name}-strips"] = strips.read_bytes()
    for name, image in images.items():
        with atomic_path(page.parent / f"experiments-{name}.png") as fresh:
            fresh.write_bytes(image)
    with atomic_path(page) as fresh:
        fresh.write_text(render(found, experiments), encoding="utf-8")


def read_results(results: Path) -> dict[str, Any]:
    """The result files by name; `ablation` is a dictionary of the variants that have run."""
    found, ablation = (
        {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}
        for folder in (results, results / "ablation")
    )
    return found | {"ablation": ablation}


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


def entry(result: Result, **wanted: str) -> Entry | None:
    """The win rate among result["win_rates"] that has these values; None where there is none."""
    rates = (rate for rate in result["win_rates"] if all(rate[key] == value for key, value in wanted.items()))
    return next(rates, None)


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


def difference(variant: Result, default: Result, split: str = "validation") -> dict[str, Any]:
    """What each user gains by `variant` over `default`, paired, with its interval over users, and what that says."""
    ours, theirs = (result["users"][split]["gain_by_user"] for result in (variant, default))
    gap = clustered_mean(np.array([ours[user] - theirs[user] for user in sorted(ours)]), np.arange(len(ours)))
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
    """The variants that were also sampled for test users, each with the default's gain over it."""
    return [
        {
            "result": ablation[name],
            "difference": difference(ablation["default"], ablation[name], "test") if name != "default" else None,
        }
        for name in experiments.trial.confirmed
        if name in ablation and "test" in ablation[name]["users"] and "default" in ablation
    ]


def curve_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Win rate on validation users after more and more training: the trials' lengths, then the headline runs."""

    def row(what: str, cost: Result, win_rates: Sequence[Entry]) -> dict[str, Any]:
        pairs = cost["steps"] * cost["pairs_per_step"]
        return {
            "what": what,
            "steps": cost["steps"],
            "pairs": pairs,
            "cpu_min": cost["train_cpu_s"] / 60,
            "win_rates": win_rates,
        }

    trials = with_default(found["ablation"], "training steps", by="steps")
    rows = [row("trial", trial, trial["users"]["validation"]["win_rates"]) for trial in trials]
    if "sampling" in found and (ours := found["sampling"]["ours"]) is not None:
        rows.append(
            row("the pipeline's run", found["sampling"]["headline"], found["sampling"]["rows"][ours]["win_rates"])
        )
    return rows


def with_default(ablation: Mapping[str, Result], varied: str, by: str) -> list[Result]:
    """The variants that differ in what is `varied` alone, and the default among them; the smallest first."""
    chosen = (result for result in ablation.values() if result["varies"] == varied or result["variant"] == "default")
    return sorted(chosen, key=lambda result: int(result[by]))


def figures(found: Mapping[str, Any], experiments: ExperimentSettings) -> dict[str, bytes]:
    """The plots, each as a PNG, of whatever has been run."""
    drawn: dict[str, bytes] = {}
    if rows := curve_rows(found):
        drawn["curve"] = curve_plot([(row["cpu_min"], row["win_rates"]) for row in rows])
    if ablation_tables(found["ablation"], experiments):
        lines = {
            "training users": ("training users", "n_train_users"),
            "training pairs, all people together": ("pairs per user", "n_train_pairs"),
        }
        points = {
            name: [
                (result[x], result["users"]["validation"]["win_rates"])
                for result in with_default(found["ablation"], varied, by=x)
            ]
            for name, (varied, x) in lines.items()
        }
        drawn["scaling"] = scaling_plot(points)
    if "identification" in found:
        drawn["directions"] = directions_plot(found["identification"]["directions"])
    if "sampling" in found:
        drawn["sampling"] = sampling_plot(found["sampling"]["rows"], found["sampling"]["base"])
    if "interpolation" in found:
        rewards = found["rewards"]["interpolations"] if "rewards" in found else []
        drawn["interpolations"] = interpolation_plot(found["interpolation"]["rows"], rewards)
    if "flow" in found:
        drawn["flow"] = stability_plot(found["flow"]["stability"])
    return drawn
