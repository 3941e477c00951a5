"""The code location: `dagster dev -w workspace.yaml`, or `make ui`."""

from pathlib import Path

import dagster as dg

from orchestration.checks import build_checks
from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import read_graph
from orchestration.sensors import dvc_state_sensor


def build_definitions(root: Path) -> dg.Definitions:
    """Everything that Dagster shows of the repository at `root`."""
    graph = read_graph(root)
    return dg.Definitions(
        assets=build_assets(graph), asset_checks=build_checks(graph), sensors=[dvc_state_sensor(graph)]
    )


defs = build_definitions(Path(__file__).parents[1])
