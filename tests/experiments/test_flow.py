"""The experiment on flow matching: what it trains, and what it makes of a curve."""

import pandas as pd
import pytest

from ppd.experiments.figures import stability_plot
from ppd.experiments.flow import ANCHORED, curve_points, job_runs, stability_runs
from ppd.experiments.settings import ExperimentSettings, changed
from ppd.settings import Settings

VARIED = ExperimentSettings.model_validate(
    {"seeds": (0, 3), "flow": {"stability": {"steps": 7}, "betas": (2, 20), "winner_anchors": (0, 0.5)}}
)
PLAIN = changed(Settings(), {"finetune": {"loss": {"winner_anchor": 0}}})


def test_ppd_is_trained_with_every_seed_and_pooled_dpo_with_the_first_for_test_users() -> None:
    runs = {run.name: run for run in job_runs(PLAIN, VARIED)}
    assert list(runs) == ["base", "dpo", "ppd-seed-0", "ppd-seed-3", ANCHORED]
    assert [run.settings.finetune.seed for run in runs.values()] == [0, 0, 0, 3, 0]
    assert [run.settings.finetune.loss.winner_anchor for run in runs.values()] == [0, 0, 0, 0, 0.5]
    assert {run.settings.evaluation.unseen_split for run in runs.values()} == {"test"}


def test_every_beta_meets_every_anchor_in_short_trainings_that_sample_nothing() -> None:
    runs = list(stability_runs(Settings(), VARIED))
    losses = [(run.settings.finetune.loss.beta, run.settings.finetune.loss.winner_anchor) for run in runs]
    assert losses == [(2, 0), (2, 0.5), (20, 0), (20, 0.5)]
    assert len({run.name for run in (*runs, *job_runs(Settings(), VARIED))}) == 9
    assert {run.settings.finetune.steps for run in runs} == {7}
    assert not any(run.sampled for run in runs)


def test_a_curve_is_how_far_errors_lie_above_the_bases() -> None:
    """The mean error of a part over the base's mean error there: parts of steps, not a mean of ratios."""
    curve = pd.DataFrame(
        {
            "step": range(4),
            "error_chosen": [2.0, 4.0, 1.0, 1.0],
            "reference_chosen": [1.0, 2.0, 2.0, 2.0],
            "error_rejected": [1.0, 1.0, 3.0, 3.0],
            "reference_rejected": [1.0, 1.0, 1.0, 2.0],
            "margin": [0.0, -2.0, 1.0, 1.0],
            "accuracy": [0.5, 1.0, 0.0, 0.0],
            "grad_norm": [1.0, 3.0, 5.0, 5.0],
        }
    )
    first, second = curve_points(curve, 2)
    assert first == {"step": 0.5, "winner": 1.0, "loser": 0.0, "margin": -1.0, "accuracy": 0.75, "grad_norm": 2.0}
    assert (second["winner"], second["loser"]) == (-0.5, 1.0)
    assert curve_points(curve, 1)[0]["winner"] == pytest.approx(8 / 7 - 1, rel=1e-4)


def test_the_plot_has_a_panel_for_each_anchor() -> None:
    points = [{"step": step, "winner": 0.1 * step, "loser": 0.2 * step} for step in range(3)]
    rows = [
        {"beta": beta, "winner_anchor": anchor, "curve": points} for beta in (5.0, 50.0) for anchor in (0.0, 1.0, 4.0)
    ]
    assert stability_plot(rows).startswith(b"\x89PNG")
    assert len(stability_plot(rows[:1])) < len(stability_plot(rows))
