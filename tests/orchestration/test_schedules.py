"""The clock asks for one evaluation a date, and the history shows its trend."""

import json
import shutil
import threading
import time
from datetime import UTC, datetime

import dagster as dg
import pytest

from orchestration import schedules
from orchestration.definitions import defs
from orchestration.schedules import HISTORY, build_clock
from ppd.settings import ReevaluationSettings, load_settings


def test_a_tick_names_the_timestamp_whose_noises_are_used():
    clock = defs.resolve_schedule_def("reevaluation")
    assert clock.cron_schedule == load_settings().reevaluation.cron
    request = clock(dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 5, 6, tzinfo=UTC)))
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "2026-01-05T06:00"
    assert dg.validate_run_config(defs.resolve_job_def("reevaluate"), request.run_config)


def test_the_history_carries_the_win_rates_as_numbers(project, monkeypatch: pytest.MonkeyPatch):
    entry = {
        "method": "ppd",
        "users": "unseen",
        "judge": "vlm",
        "pairing": "independent",
        "ci_low": 0.5,
        "ci_high": 0.9,
    }
    rates = [entry | {"opponent": "base", "win_rate": 0.7}, entry | {"opponent": "dpo", "win_rate": 0.6}]
    rates.append(entry | {"opponent": "base", "win_rate": 0.99, "pairing": "same-seed"})

    def run_group(command, root, take):
        assert command[-2:] == ["--date", "2026-01-05T06:00"]
        project.write("evaluations/history.jsonl", json.dumps({"date": "2026-01-05T06:00", "win_rates": rates}) + "\n")

    monkeypatch.setattr(schedules, "run_group", run_group)
    [asset], _, _ = build_clock(project.graph, ReevaluationSettings())
    config = schedules.run_config("2026-01-05T06:00")
    done = dg.materialize([asset], instance=project.instance, run_config=config)
    [event] = done.get_asset_materialization_events()
    event = event.materialization
    assert event.asset_key == HISTORY
    numbers = {name: value.value for name, value in event.metadata.items() if name.startswith("win rate")}
    assert "data:image/png" in event.metadata["trend"].value
    assert numbers == {"win rate over base, unseen, vlm": 0.7, "win rate over dpo, unseen, vlm": 0.6}


@pytest.mark.parametrize(("version", "asked"), [("same", 0), ("new", 1)])
def test_only_a_new_version_of_models_or_users_asks_for_an_evaluation(project, version, asked):
    assets, _, _ = build_clock(project.graph, ReevaluationSettings())
    defs = dg.Definitions(assets=[*assets, *(dg.AssetSpec(dg.AssetKey(key)) for key in schedules.JUDGED)])

    def report(value: str) -> None:
        for key in schedules.JUDGED:
            tags = {"dagster/data_version": value, "dagster/data_version_is_user_provided": "true"}
            project.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(key), tags=tags))

    report("same")
    before = dg.evaluate_automation_conditions(defs, project.instance)
    report(version)
    after = dg.evaluate_automation_conditions(defs, project.instance, cursor=before.cursor)
    assert after.total_requested == asked


def test_it_waits_for_a_run_that_makes_models_and_says_so(project, monkeypatch: pytest.MonkeyPatch):
    """In the pool alone it would slip in between two trainings of the same run."""
    monkeypatch.setattr(schedules, "LOOK_EVERY_S", 0.05)
    line = {"date": "2026-01-05T06:00", "win_rates": []}
    began: list[bool] = []

    def run_group(command, root, take):
        began.append(maker_is_done.is_set())
        project.write("evaluations/history.jsonl", json.dumps(line) + "\n")

    monkeypatch.setattr(schedules, "run_group", run_group)
    maker_is_done = threading.Event()
    maker = dg.AssetKey(["models", "dpo"])

    @dg.asset(key=maker)
    def training() -> None:
        maker_is_done.wait(60)

    [asset], _, _ = build_clock(project.graph, ReevaluationSettings())
    job = dg.define_asset_job("train", selection=dg.AssetSelection.assets(maker))
    defs = dg.Definitions([training, asset], jobs=[job])
    train = threading.Thread(
        target=lambda: defs.resolve_job_def("train").execute_in_process(
            instance=project.instance, asset_selection=[maker]
        )
    )
    train.start()
    while not project.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        time.sleep(0.05)
    threading.Timer(1.0, maker_is_done.set).start()
    done = dg.materialize([asset], instance=project.instance, run_config=schedules.run_config(line["date"]))
    train.join()
    assert done.success and began == [True]


def test_of_times_that_were_missed_the_last_one_alone_is_made_up_for(tmp_path, request):
    shutil.copy(request.config.rootpath / "orchestration/dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.scheduler.max_catchup_runs == 1
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
