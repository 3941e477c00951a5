"""The clock: the current models, evaluated again on fresh noises and captions, and the trend of it."""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus  # has no public name

from orchestration.dvc_graph import Graph, Key, group_name
from orchestration.dvc_process import BUSY_LIMIT_S, run_group
from orchestration.metadata import describe_history
from ppd import reevaluation
from ppd.settings import ReevaluationSettings

HISTORY = dg.AssetKey(["evaluations", "history.jsonl"])
JUDGED = (("models", "ppd"), ("artifacts", "users.parquet"))
"""What a re-evaluation is about."""
REEVALUATION_TAG = {"ppd/reevaluation": "true"}
"""orchestration/dagster.yaml lets one such run at a time go on, so that one that waits leaves room for others."""
LOOK_EVERY_S = 10.0


class ReevaluationOptions(dg.Config):
    """Which noises and captions; the timestamp decides them, so that a run can be repeated."""

    date: str = ""
    """YYYY-MM-DDTHH:MM, UTC; empty for now."""


# Only where a version is new: a materialisation that changed nothing asks for no evaluation.
_WHEN_JUDGED_CHANGED = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def build_clock(
    graph: Graph, settings: ReevaluationSettings, pool: str | None = None
) -> tuple[Sequence[dg.AssetsDefinition], Sequence[dg.ScheduleDefinition], Sequence[dg.SensorDefinition]]:
    """The history asset, the schedule that extends it, and a sensor that extends it when models or users changed.

    Schedule and sensor are off until somebody turns them on in the UI: an evaluation takes the machine for a while.
    `pool`: of the stages that load a model; an evaluation takes its turn among them.
    """
    judged = {
        key[0] + "_" + key[-1].split(".")[0]: dg.AssetIn(dg.AssetKey(key), dagster_type=dg.Nothing) for key in JUDGED
    }

    @dg.op(
        name="wait_until_made",
        ins={name: dg.In(dg.Nothing) for name in judged},
        out=dg.Out(dg.Nothing),
        description="Waits while runs of Dagster make models or users. It takes no place in the pool: they need it.",
    )
    def wait_until_made(context: dg.OpExecutionContext) -> None:
        reported, deadline = "", time.monotonic() + BUSY_LIMIT_S
        while makers := ", ".join(_makers(context.instance, context.run)):
            if time.monotonic() > deadline:
                raise dg.Failure(f"Models or users are still being made, by {makers}.")
            if makers != reported:
                context.log.info(f"Models or users are being made by {makers}; the re-evaluation starts after it.")
                reported = makers
            time.sleep(LOOK_EVERY_S)

    @dg.op(name="evaluate", ins={"made": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing), pool=pool)
    def evaluate(context: dg.OpExecutionContext, config: ReevaluationOptions) -> dg.Output[None]:
        timestamp = config.date or reevaluation.name_of(datetime.now(UTC))
        command = [sys.executable, "-c", "from ppd.cli import main; main()", "reevaluate", "--date", timestamp]
        run_group(command, graph.root, context.log.info)
        return dg.Output(None, metadata=describe_history(reevaluation.history(graph.root), timestamp))

    @dg.graph_asset(
        key=HISTORY,
        ins=judged,
        group_name=group_name(graph, "evaluation"),
        kinds={"json"},
        description="Win rates of the current models, evaluated afresh: a line each time. Its metadata is the trend.",
        automation_condition=_WHEN_JUDGED_CHANGED,
    )
    def history(**inputs: object):  # type: ignore[no-untyped-def]
        return evaluate(wait_until_made(**inputs))

    job = dg.define_asset_job("reevaluate", selection=dg.AssetSelection.assets(HISTORY), tags=REEVALUATION_TAG)

    @dg.schedule(job=job, cron_schedule=settings.cron, execution_timezone="UTC", name="reevaluation")
    def clock(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        timestamp = reevaluation.name_of(context.scheduled_execution_time.astimezone(UTC))
        return dg.RunRequest(run_key=timestamp, run_config=run_config(timestamp))

    sensor = dg.AutomationConditionSensorDefinition(
        "reevaluation_when_changed", target=dg.AssetSelection.assets(HISTORY), run_tags=REEVALUATION_TAG
    )
    return [history], [clock], [sensor]


def run_config(timestamp: str) -> dict[str, object]:
    """Of a run that evaluates as of `timestamp`."""
    return {"ops": {HISTORY.to_python_identifier(): {"ops": {"evaluate": {"config": {"date": timestamp}}}}}}


def _makers(instance: dg.DagsterInstance, own: dg.DagsterRun) -> list[str]:
    """Runs and backfills under way that make what an evaluation reads, but this one and what it belongs to."""
    started = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    runs = [
        f"run {run.run_id[:8]}"
        for run in instance.get_runs(dg.RunsFilter(statuses=started))
        if run.run_id != own.run_id and any(map(_is_made, run.asset_selection or ()))
    ]
    under_way = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    backfills = [
        f"backfill {backfill.backfill_id}"
        for backfill in under_way
        if backfill.backfill_id != own.tags.get("dagster/backfill")
        and any(map(_is_made, backfill.asset_selection or ()))
    ]
    return runs + backfills


def _is_made(asset: dg.AssetKey) -> bool:
    made: list[Key] = [tuple(path.split("/")) for path in reevaluation.MADE]
    return any(tuple(asset.path[: len(key)]) == key for key in made)
