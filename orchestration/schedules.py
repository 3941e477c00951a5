"""The clock: the current models, evaluated again on fresh noises and captions, and the trend of it."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from orchestration.dvc_graph import Graph
from orchestration.dvc_process import run_group
from orchestration.metadata import describe_history
from ppd import reevaluation
from ppd.settings import ReevaluationSettings

HISTORY = dg.AssetKey(["evaluations", "history.jsonl"])
JUDGED = (("models", "ppd"), ("artifacts", "users.parquet"))
"""What a re-evaluation is about."""


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
    graph: Graph, settings: ReevaluationSettings
) -> tuple[Sequence[dg.AssetsDefinition], Sequence[dg.ScheduleDefinition], Sequence[dg.SensorDefinition]]:
    """The history asset, the schedule that extends it, and a sensor that extends it when models or users changed.

    Schedule and sensor are off until somebody turns them on in the UI: an evaluation takes the machine for a while.
    """

    @dg.asset(
        key=HISTORY,
        deps=[dg.AssetKey(key) for key in JUDGED],
        group_name="evaluation",
        kinds={"json"},
        description="Win rates of the current models, evaluated afresh: a line each time. Its metadata is the trend.",
        automation_condition=_WHEN_JUDGED_CHANGED,
    )
    def history(context: dg.AssetExecutionContext, config: ReevaluationOptions) -> dg.MaterializeResult[None]:
        timestamp = config.date or reevaluation.name_of(datetime.now(UTC))
        command = [sys.executable, "-c", "from ppd.cli import main; main()", "reevaluate", "--date", timestamp]
        run_group(command, graph.root, context.log.info)
        return dg.MaterializeResult(metadata=describe_history(reevaluation.history(graph.root), timestamp))

    job = dg.define_asset_job("reevaluate", selection=dg.AssetSelection.assets(HISTORY))

    @dg.schedule(job=job, cron_schedule=settings.cron, execution_timezone="UTC", name="reevaluation")
    def clock(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        timestamp = reevaluation.name_of(context.scheduled_execution_time.astimezone(UTC))
        return dg.RunRequest(run_key=timestamp, run_config={"ops": {history.op.name: {"config": {"date": timestamp}}}})

    sensor = dg.AutomationConditionSensorDefinition(
        "reevaluation_when_changed", target=dg.AssetSelection.assets(HISTORY)
    )
    return [history], [clock], [sensor]
