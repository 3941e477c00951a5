"""Noticing what happened outside Dagster."""

import time

import dagster as dg

from orchestration.background import Background, StillWorking
from orchestration.dvc_graph import Graph
from orchestration.dvc_lock import BROKEN
from orchestration.dvc_state import read_lock, read_workspace
from orchestration.reporting import State, unreported_events

EVENTS_PER_TICK = 500
SECONDS_PER_TICK = 15.0
"""For each of reading and reporting. Dagster ends a tick after 60 s, and what an event shows has to be drawn."""


def dvc_state_sensor(graph: Graph, interval_s: int = 15) -> dg.SensorDefinition:
    """Reports what ran under `dvc repro` in a shell, and what changed in code, settings and data, as runless events.

    Reads dvc.lock and hashes what changed; never calls `dvc status`, which fails while a stage runs.
    """

    reading = Background(lambda: read_workspace(graph.root))

    @dg.sensor(
        name="dvc_state",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells Dagster what `dvc repro` did in a shell, and what changed in code, settings and data.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            workspace = reading.result(SECONDS_PER_TICK)
            state = State(graph=graph, locks=read_lock(graph.root), workspace=workspace, instance=context.instance)
        except BROKEN:
            return dg.SkipReason("dvc.lock is being written; it is read at the next tick.")
        except StillWorking:
            return dg.SkipReason("Hashing what has changed goes on until the next tick.")
        if context.cursor == state.fingerprint:
            return dg.SkipReason("Nothing changed.")
        reported, started = 0, time.monotonic()
        for event in unreported_events(state):
            context.instance.report_runless_asset_event(event)  # at once: later events point to earlier ones
            reported += 1
            if reported == EVENTS_PER_TICK or time.monotonic() - started > SECONDS_PER_TICK:
                return dg.SkipReason(f"Reported {reported} events; the rest at the next tick.")
        context.update_cursor(state.fingerprint)
        return dg.SkipReason(f"Reported {reported} events.")

    return sense
