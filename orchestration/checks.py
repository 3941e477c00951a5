"""Asset checks: what has to hold of the results, beyond that they are up to date.

The judgements are plain functions of files, `build_checks` wires them to the assets that dvc.yaml has.
"""

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestration.dvc_graph import Graph, Key
from orchestration.metadata import headline_entries
from orchestration.user_map import hidden_of
from ppd.preferences.leakage import check_leakage

WIN_RATE_GOAL = 0.6
COLLAPSED_ABOVE = 0.999
"""Mean cosine between users' embeddings, from which on all of them say the same."""
CONSISTENCY_GOAL = 0.8
VOID_SHARES = {"void verdicts": "judge.void.verdicts", "void answers about real choices": "judge.void.choices"}
"""What the judge abstained from, as shares: in no win rate, so it is told beside."""


@dataclass(frozen=True)
class CheckOutcome:
    """Passed or not; `warn` when a failure is no reason to stop."""

    passed: bool
    numbers: dict[str, Any] = field(default_factory=dict)
    warn: bool = False


def no_leakage(preferences: Path) -> CheckOutcome:
    """No image, caption or user is on both sides of a split."""
    leaks = check_leakage(preferences)
    return CheckOutcome(not leaks, {"leaks": leaks})


def embeddings_are_sound(shards: Path) -> CheckOutcome:
    """Every embedding is finite, and users' embeddings differ from each other."""
    n, finite, norms = 0, True, 0.0
    widths: set[int] = set()
    units: NDArray[np.float64] | float = 0.0
    for file in sorted(shards.glob("*/embeddings.parquet")):  # one at a time: all are a gigabyte at the paper's sizes
        hidden = hidden_of(file)[1].astype(np.float64)
        if not len(hidden):
            continue
        length = np.linalg.norm(hidden, axis=1)
        n, norms, widths = n + len(hidden), norms + float(length.sum()), widths | {hidden.shape[1]}
        finite = finite and bool(np.isfinite(hidden).all()) and bool((length > 0).all())
        if len(widths) == 1:
            units = units + (hidden / np.maximum(length, 1e-30)[:, None]).sum(axis=0)
    if not n or len(widths) > 1:
        return CheckOutcome(False, {"embeddings": n, "widths": sorted(widths)})
    cosine = float(np.linalg.norm(units / n) ** 2)  # the mean over all pairs, each with itself included
    numbers = {"embeddings": n, "mean norm": norms / n, "mean cosine between two": cosine, "width": widths.pop()}
    return CheckOutcome(finite and cosine < COLLAPSED_ABOVE, numbers)


def starts_at_ln_2(model: Path) -> CheckOutcome:
    """The first loss of preference training is ln 2: the adapter began as no adapter at all."""
    loss = float(pd.read_csv(model / "curve.csv")["loss"].iloc[0])
    return CheckOutcome(math.isclose(loss, math.log(2), rel_tol=1e-3), {"first loss": loss, "ln 2": math.log(2)})


def judge_is_consistent(metrics: Path) -> CheckOutcome:
    """The judge mostly gives the same answer when the two images change places."""
    values = json.loads(metrics.read_text())
    numbers = {name: values[key] for name, key in VOID_SHARES.items() if key in values}
    consistency = values.get("judge.consistency.verdicts")
    if consistency is None:
        return CheckOutcome(False, {"consistency": "unknown: no comparison has a verdict", **numbers}, warn=True)
    return CheckOutcome(consistency >= CONSISTENCY_GOAL, {"consistency": float(consistency), **numbers}, warn=True)


def beats_the_base(win_rates: Path) -> CheckOutcome:
    """Unseen users prefer their pictures to the base model's. Under the goal warns; perhaps chance is an error."""
    entries = headline_entries(json.loads(win_rates.read_text()))
    judgements = {entry["judge"]: entry for entry in entries}
    if not entries:
        return CheckOutcome(False, {"win rate": "unknown: no comparison with the base has a verdict"})
    numbers = {f"win rate ({name})": float(entry["win_rate"]) for name, entry in judgements.items()}
    numbers |= {f"lower end ({name})": float(entry["ci_low"]) for name, entry in judgements.items()}
    doubtful = not all(entry["ci_low"] >= 0.5 for entry in entries)  # an interval of NaN is no success
    passed = all(entry["win_rate"] >= WIN_RATE_GOAL for entry in entries) and not doubtful
    return CheckOutcome(passed, numbers, warn=not doubtful)


def no_worse_than_accepted(win_rates: Path) -> CheckOutcome:
    """Not worse than the win rates last committed to git, beyond the interval. Without an answer of git it warns."""
    try:
        committed = _committed(win_rates)
        if committed is None:
            return CheckOutcome(True, {"accepted": "none committed yet"})
        before = {entry["judge"]: entry["win_rate"] for entry in headline_entries(json.loads(committed))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CheckOutcome(False, {"accepted": f"cannot be read: {error}"}, warn=True)
    now = {entry["judge"]: entry for entry in headline_entries(json.loads(win_rates.read_text()))}
    numbers: dict[str, Any] = {f"accepted ({name})": float(rate) for name, rate in before.items()}
    if not before or set(before) - set(now):
        lacking = sorted(set(before) - set(now))
        return CheckOutcome(False, numbers | {"not comparable": lacking or "no headline was committed"}, warn=True)
    worse = [name for name in before if not now[name]["ci_high"] >= before[name]]  # NaN is no success
    return CheckOutcome(not worse, numbers | {"worse": worse})


def _committed(file: Path) -> str | None:
    """What HEAD holds of the file; None where it holds none. Raises OSError with git's words when git refuses."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=False)

    head = git("rev-parse", "--quiet", "--verify", "HEAD")
    if head.returncode == 1 and not head.stderr:
        return None  # no commit at all
    for found in (head, listed := git("ls-tree", "--name-only", "HEAD", "--", file.name)):
        if found.returncode != 0:
            raise OSError(found.stderr.strip() or f"git ended with exit code {found.returncode}")
    if not listed.stdout.strip():
        return None
    shown = git("show", f"HEAD:./{file.name}")
    if shown.returncode != 0:
        raise OSError(shown.stderr.strip())
    return shown.stdout


CHECKS: tuple[tuple[Key, Callable[[Path], CheckOutcome]], ...] = (
    (("artifacts", "preferences"), no_leakage),
    (("artifacts", "users"), embeddings_are_sound),
    (("models", "ppd"), starts_at_ln_2),
    (("models", "dpo"), starts_at_ln_2),
    (("reports", "metrics.json"), judge_is_consistent),
    (("reports", "win_rates.json"), beats_the_base),
    (("reports", "win_rates.json"), no_worse_than_accepted),
)


def build_checks(graph: Graph) -> Sequence[dg.AssetChecksDefinition]:
    """The checks whose asset `graph` has. They run after it, in the same run."""
    present = {key for stage in graph.stages for key in stage.outputs}
    return [_check(graph.root, key, judge) for key, judge in CHECKS if key in present]


def _check(root: Path, key: Key, judge: Callable[[Path], CheckOutcome]) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=dg.AssetKey(key), name=judge.__name__, description=judge.__doc__)
    def check() -> dg.AssetCheckResult:
        found = judge(root.joinpath(*key))
        severity = dg.AssetCheckSeverity.WARN if found.warn else dg.AssetCheckSeverity.ERROR
        return dg.AssetCheckResult(passed=found.passed, severity=severity, metadata=found.numbers)

    return check
