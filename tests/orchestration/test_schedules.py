"""The clock asks for one evaluation a date, and the history shows its trend."""

import json
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
    config = {"ops": {asset.op.name: {"config": {"date": "2026-01-05T06:00"}}}}
    done = dg.materialize([asset], instance=project.instance, run_config=config)
    [event] = done.asset_materializations_for_node(asset.op.name)
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
