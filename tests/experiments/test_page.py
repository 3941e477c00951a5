"""docs/experiments.md says what the result files say, and nobody has edited it."""

import shutil
from pathlib import Path

import pytest

from ppd.experiments.page import difference, interval, read_results, render, share, write_page
from ppd.experiments.settings import ExperimentSettings
from ppd.layout import Layout
from ppd.params import load_model
from ppd.settings import Settings

ROOT = Path(__file__).parents[2]
EXPERIMENTS = load_model(ROOT / "experiments/params.yaml", ExperimentSettings)


def gains(**by_user: float) -> dict[str, object]:
    return {"users": {"validation": {"gain_by_user": by_user}}}


def test_the_committed_page_is_what_the_command_writes():
    page = render(read_results(ROOT / "experiments/results"), EXPERIMENTS)
    assert (ROOT / "docs/experiments.md").read_text() == page


def test_every_picture_that_the_page_shows_is_there(tmp_path: Path):
    layout = Layout(tmp_path)
    shutil.copytree(ROOT / "experiments/results", layout.experiment_results)
    write_page(Settings(), EXPERIMENTS, layout)
    shown = {part.split(")")[0] for part in layout.experiment_page.read_text().split("](")[1:] if ".png)" in part}
    assert shown == {file.name for file in layout.experiment_page.parent.glob("*.png")}
    assert all((ROOT / "docs" / name).exists() for name in shown)


def test_without_results_there_is_a_page_that_claims_nothing():
    page = render({"ablation": {}}, EXPERIMENTS)
    assert page.startswith("# Experiments") and "*What it means.*" not in page


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ((0.2, 0.3, 0.25, 0.2), "better"),
        ((-0.2, -0.3, -0.25, -0.2), "worse"),
        ((0.3, -0.3, 0.2, -0.2), "no difference"),
    ],
)
def test_a_difference_is_named_by_its_interval(ours, says):
    names = [f"user {i}" for i in range(len(ours))]
    found = difference(gains(**dict(zip(names, ours, strict=True))), gains(**dict.fromkeys(names, 0.0)))
    assert found["says"].startswith(says)
    assert found["ci_low"] <= found["mean"] <= found["ci_high"]


@pytest.mark.parametrize(("value", "text"), [(0.7904, ".790"), (1.0, "1.00"), (-0.2, "-0.20"), (0, ".000")])
def test_shares_are_written_short(value, text):
    assert share(value) == text


def test_an_interval_stands_beside_its_number():
    assert interval({"mean": 0.5, "ci_low": 0.4, "ci_high": 0.61}) == ".500 [.400, .610]"
