"""What bench/soak.py would call lost, and that Dagster knows every question it asks."""

import importlib
import json
import os
import subprocess
import sys
from types import ModuleType

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

TIMESTAMP = "2026-01-05T06:00"


@pytest.fixture
def soak(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(request.config.rootpath / "bench"))
    return importlib.import_module("soak")


def test_a_lost_line_a_process_that_was_left_and_a_stage_out_of_date_are_losses(soak, project) -> None:
    root = project.root
    project.repro("prepare")
    line = json.dumps({"date": TIMESTAMP}) + "\n"
    project.write("evaluations/history.jsonl", line)
    runs = [{"status": "SUCCESS", "runConfig": soak.evaluation_of(TIMESTAMP)}, {"status": "SUCCESS", "runConfig": {}}]
    runs += [{"status": "CANCELED", "runConfig": soak.evaluation_of("2026-01-05T06:01")}]
    assert soak.losses(root, runs, ["prepare"]) == {}

    project.write("evaluations/history.jsonl", 2 * (json.dumps({"date": "2026-01-05T05:00"}) + "\n"))
    project.write("code/prepare.txt", "prepare 2\n")
    environment = os.environ | {"DAGSTER_HOME": str(root / ".dagster")}
    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    found = soak.losses(root, runs, ["prepare"])
    left.communicate(b"\n")
    assert list(found.pop("dvc status")) == ["prepare"]
    assert found == {
        "evaluations without a line": [TIMESTAMP],
        "lines twice": ["2026-01-05T05:00"],
        "processes left": [f"{sys.executable} -c input()"],
    }


def test_dagster_knows_every_question_that_the_soak_asks(soak) -> None:
    schema = create_schema().graphql_schema
    questions = [soak.LAUNCH, soak.RUNS, soak.WHY, soak.TERMINATE, soak.SENSOR, soak.POOLS]
    questions += [soak.SCHEDULE % name for name in ("startSchedule", "resetSchedule")]
    for question in questions:
        assert validate(schema, parse(question)) == [], question
