"""Re-evaluation: fresh noises by date, a history that keeps one line a date, nothing half-done in it."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ppd.errors import InputError
from ppd.reevaluation import READ, STAGES, evaluation_of, history, reevaluate
from ppd.settings import Settings, load_settings

SETTINGS = Settings()
MONDAY, TUESDAY = datetime(2026, 1, 5, 6), datetime(2026, 1, 6, 6)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in READ:
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "models" / "ppd").mkdir()
    (tmp_path / "models" / "ppd" / "config.json").write_text('{"base": "nano"}')
    return tmp_path


class Stages:
    """Stands for the stages: writes down its calls, and the first seed as the win rate."""

    def __init__(self, fail_at: str | None = None) -> None:
        self.ran: list[str] = []
        self.fail_at = fail_at

    def __call__(self, arguments, folder: Path) -> None:
        self.ran.append(" ".join(arguments))
        if arguments[0] == self.fail_at:
            raise RuntimeError("out of memory")
        assert (folder / "models" / "ppd" / "config.json").exists()
        if arguments[0] == "report":
            seed = load_settings(folder / "params.yaml").evaluation.first_seed
            (folder / "reports").mkdir(exist_ok=True)
            (folder / "reports" / "win_rates.json").write_text(json.dumps([{"win_rate": seed}]))


def test_two_timestamps_share_no_noise_and_a_timestamp_has_always_the_same():
    n_seeds = SETTINGS.evaluation.n_seeds
    assert evaluation_of(MONDAY + timedelta(minutes=1), SETTINGS).first_seed - n_seeds == (
        evaluation_of(MONDAY, SETTINGS).first_seed
    )
    monday, tuesday = (evaluation_of(day, SETTINGS).first_seed for day in (MONDAY, TUESDAY))
    assert tuesday - monday >= n_seeds
    assert monday >= SETTINGS.evaluation.first_seed + n_seeds
    assert monday == evaluation_of(MONDAY, SETTINGS).first_seed


def test_the_stages_run_in_order_with_the_seeds_of_the_date(root):
    stages = Stages()
    line = reevaluate(root, SETTINGS, MONDAY, stages)
    assert stages.ran == [" ".join(stage) for stage in STAGES]
    assert line["win_rates"] == [{"win_rate": evaluation_of(MONDAY, SETTINGS).first_seed}]
    assert history(root) == [line]


def test_all_other_settings_stay(root):
    reevaluate(root, SETTINGS, MONDAY, Stages())
    used = load_settings(root / "runs/reevaluations/2026-01-05T06:00/params.yaml")
    assert used.evaluation == evaluation_of(MONDAY, SETTINGS)
    assert used.model_copy(update={"evaluation": SETTINGS.evaluation}) == SETTINGS


def test_history_is_by_date_and_a_repeated_date_replaces_its_line(root):
    for day in (TUESDAY, MONDAY, TUESDAY):
        reevaluate(root, SETTINGS, day, Stages())
    assert [line["date"] for line in history(root)] == ["2026-01-05T06:00", "2026-01-06T06:00"]


def test_a_failed_evaluation_leaves_no_line(root):
    reevaluate(root, SETTINGS, MONDAY, Stages())
    with pytest.raises(RuntimeError):
        reevaluate(root, SETTINGS, TUESDAY, Stages(fail_at="judge"))
    assert [line["date"] for line in history(root)] == ["2026-01-05T06:00"]


def test_without_models_it_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"no data, models.*dvc repro"):
        reevaluate(tmp_path, SETTINGS, MONDAY, Stages())
