"""A run whose process is gone does not hold a place for ever, and one that runs is left alone."""

import os
import shutil
import subprocess
import sys

import dagster as dg

from orchestration.dead_runs import end_dead_runs

LAUNCHED = "Started process for run (pid: {})."
IN_THE_SHELL = "Executing steps using multiprocess executor: parent process (pid: {})"
"""As `dagster asset materialize` runs it."""


def test_only_runs_whose_process_is_gone_are_marked_as_failed(tmp_path, request):
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    shutil.copy(request.config.rootpath / "orchestration/dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        names = {}

        def start(name: str, pid: int | None = None, said: str = LAUNCHED) -> subprocess.Popen[bytes]:
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
            names[run.run_id] = name
            process = subprocess.Popen(sleep)
            if name != "its process is not there yet":
                instance.report_engine_event(said.format(pid or process.pid), run)
            return process

        gone, runs = start("gone"), start("runs")
        commands = [start(f"command {number}", said=IN_THE_SHELL) for number in range(2)]
        others = [start("its process is not there yet"), start("its number is another's now", os.getpid())]
        for process in (gone, commands[0]):
            process.kill()
            process.wait()
        dead = {names[run_id] for run_id in end_dead_runs(instance)}
        assert dead == {"gone", "command 0", "its number is another's now"}
        assert end_dead_runs(instance) == []
        for process in (runs, commands[1], *others):
            process.kill()
            process.wait()
