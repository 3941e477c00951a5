"""The code location: `dagster dev -w workspace.yaml`, or `make ui`."""

from pathlib import Path

import dagster as dg

from orchestration.checks import build_checks
from orchestration.dead_runs import dead_runs_sensor
from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import read_graph
from orchestration.record import build_record
from orchestration.schedules import build_clock
from orchestration.sensors import dvc_state_sensor
from orchestration.users import build_users
from ppd.settings import load_settings


def build_definitions(root: Path) -> dg.Definitions:
    """Everything that Dagster shows of the repository at `root`."""
    graph = read_graph(root)
    history, schedules, sensors = build_clock(
        graph, load_settings(root / "params.yaml").reevaluation, graph.stage("judge").meta.get("pool")
    )
    watched, jobs, watchers = build_users(graph)
    return dg.Definitions(
        assets=[*build_assets(graph), *watched, *history],
        asset_checks=build_checks(graph),
        schedules=schedules,
        jobs=[*jobs, build_record(graph)],
        sensors=[dvc_state_sensor(graph), dead_runs_sensor(), *watchers, *sensors],
    )


defs = build_definitions(Path(__file__).parents[1])
