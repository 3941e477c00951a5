"""Both doors and the clock in one short go, with real servers: the quick form of bench/soak.py, and what it sees."""

import importlib
import socket
import subprocess
from pathlib import Path

import pytest

TIMESTAMP = "2026-01-05T06:00"
EVALUATED = ["adapter@ppd", "adapter@dpo", "adapter@sft", "truth"]
"""Stages that with those before them make all that an evaluation reads."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The modules small_project, soak and served; in the end no process of the project is left, whatever happened."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "bench"))
    project, soak, served = map(importlib.import_module, ("small_project", "soak", "served"))
    yield project, soak, served
    for process in soak.processes(tmp_path):
        process.kill()


@pytest.mark.slow
def test_a_cancelled_run_gives_its_place_to_an_evaluation_and_nothing_is_lost(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, soak, served = bench
    monkeypatch.setenv("SOAK_WORK_S", "0")
    project.build(tmp_path, None, first_run=False)
    environment = project.environment(tmp_path)
    edited = tmp_path / "src/ppd/diffusion/encoding/edited.py"

    def works() -> bool:
        """Whether the worker of a stage that Dagster started is there."""
        marked = soak.processes(tmp_path, "PPD_PROCESS_TREE")
        return any("time.sleep(3600)" in " ".join(each.cmdline()) for each in marked)

    repro = subprocess.Popen([*project.DVC, "repro", "-q", *EVALUATED], cwd=tmp_path, env=environment)
    with served.dagster_dev(tmp_path, _free_port(), environment | {"SOAK_ENCODE_S": "3600"}) as base:
        assert repro.wait(900) == 0
        happening = soak.Soak(tmp_path, base)
        edited.write_text("")
        cancelled = happening.materialise("artifacts/latents")
        served.until(works, 600, "the stage did not begin")
        evaluation = happening.evaluate(TIMESTAMP)
        served.until(lambda: evaluation in happening.under_way("STARTED"), 600, "the evaluation was not begun")
        assert happening.places() == [f"accelerator: {cancelled}"], "one model at a time"
        happening.ask(soak.TERMINATE, id=cancelled)
        served.until(lambda: happening.under_way("CANCELED") == [cancelled], 300, "the run was not cancelled")
        served.until(lambda: evaluation in happening.under_way("SUCCESS"), 600, "the place in the pool stays taken")
        assert not works()
        runs = happening.runs()
    edited.unlink()
    assert soak.losses(tmp_path, runs, ["encode", *EVALUATED]) == {}
    assert soak.dates_of(tmp_path) == [TIMESTAMP]
