"""One self-contained HTML page that a newcomer understands: the question, the answer, the pictures, the controls."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppd.evaluation.plots import curves_plot, interpolation_plot, strip, win_rate_plot
from ppd.evaluation.tables import Pixels
from ppd.evaluation.win_rates import CEILING, Entry, headline
from ppd.files import atomic_path


@dataclass(frozen=True)
class UserPage:
    """One user in miniature. pairs: (preferred, rejected) images that the model was shown."""

    user_id: str
    users: str
    profile: str
    truth: str
    pairs: Sequence[tuple[Pixels, Pixels]]
    base: Sequence[Pixels]
    personal: Sequence[Pixels]
    gain_sd: float


@dataclass(frozen=True)
class InterpolationStrip:
    """Images between two users, and what both truly think of them (in SD of the base).

    Utilities are empty where nobody's true taste is known.
    """

    first: str
    second: str
    shares: Sequence[float]
    images: Sequence[Pixels]
    utility_first: Sequence[float]
    utility_second: Sequence[float]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. metrics: plain dotted names, the content of metrics.json."""

    win_rates: Sequence[Entry]
    metrics: Mapping[str, float]
    users: Sequence[UserPage]
    interpolations: Sequence[InterpolationStrip]
    curves: Mapping[str, pd.DataFrame]
    simulated: bool
    origin: Mapping[str, str]
    """What a reader needs to reproduce it: commit, base, data, settings, stage times."""


def write_report(report: Report, file: Path) -> None:
    """Render `report` to one HTML file; every image is inside it, nothing is loaded from anywhere."""
    environment = Environment(
        loader=PackageLoader("ppd.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["data_uri"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode()
    shown = [entry for entry in report.win_rates if entry["pairing"] == "independent"]
    users = [
        {
            "page": user,
            "pairs": strip([image for pair in user.pairs for image in pair], columns=2, scale=1),
            "base": strip(user.base, columns=4),
            "personal": strip(user.personal, columns=4),
        }
        for user in report.users
    ]
    interpolations = [
        {
            "about": path,
            "strip": strip(path.images, columns=len(path.shares)),
            "plot": interpolation_plot(path.shares, path.utility_first, path.utility_second)
            if path.utility_first
            else None,
        }
        for path in report.interpolations
    ]
    page = environment.get_template("report.html").render(
        report=report,
        headline=headline(report.win_rates),
        ceiling=headline(report.win_rates, CEILING),
        metric_groups=_by_first_word(report.metrics),
        win_rate_plot=win_rate_plot(shown) if shown else None,
        users=users,
        interpolations=interpolations,
        curves=curves_plot(report.curves) if report.curves else None,
    )
    with atomic_path(file) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _by_first_word(metrics: Mapping[str, float]) -> dict[str, list[tuple[str, float]]]:
    """Metrics under the first part of their dotted names, each without it."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for name, value in sorted(metrics.items()):
        first, _, rest = name.partition(".")
        groups.setdefault(first, []).append((rest or first, value))
    return groups
