"""Runs whose process is gone, as after a power cut: Dagster would always show them as running and keep their places.

The daemon looks for them. Where none runs, `python -m orchestration.dead_runs` does, with DAGSTER_HOME set: else the
next `dagster asset materialize` would wait for the place that a killed one has left taken.
"""

import re
from collections.abc import Sequence

import dagster as dg
import psutil
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher  # has no public name

# Of a run that was launched, and of one that the command line runs itself.
_STARTED = re.compile(r"(?:Started process for run|^Executing steps .*process) \(pid: (\d+)\)")
UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def dead_runs_sensor(interval_s: int = 60) -> dg.SensorDefinition:
    """Ends runs of this machine whose process is gone. On Kubernetes the launcher knows: it asks for the pod."""

    @dg.sensor(
        name="dead_runs",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process is gone: after a power cut nobody else does.",
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dead = end_dead_runs(context.instance)
        return dg.SkipReason(f"Marked as failed: {', '.join(dead)}." if dead else "All runs under way have a process.")

    return sense


def end_dead_runs(instance: dg.DagsterInstance) -> Sequence[str]:
    """Mark runs of this machine as failed whose process is gone, and free their places in pools; their ids."""
    if not isinstance(instance.run_launcher, DefaultRunLauncher):
        return []
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY)):
        run = record.dagster_run
        said = [_STARTED.search(entry.message) for entry in instance.all_logs(run.run_id)]
        pids = [int(found.group(1)) for found in said if found]
        if pids and not _runs(pids[-1], record.create_timestamp.timestamp()):
            instance.report_run_failed(run, f"The process of this run ({pids[-1]}) is gone.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _runs(pid: int, since: float) -> bool:
    """Whether that process is there, and is not another one that got its number after a restart of the machine."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() >= since - 1
    except psutil.Error:
        return False


def main() -> None:
    """Look once, without a daemon."""
    with dg.DagsterInstance.get() as instance:
        dead = end_dead_runs(instance)
    print(f"marked as failed: {', '.join(dead) or 'none'}")


if __name__ == "__main__":
    main()
