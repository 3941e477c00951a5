"""`dagster asset materialize`, killed with its process group: nothing of it lives on, its place can be taken again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.orchestration.conftest import Project

DEFINITIONS = """
from pathlib import Path
import dagster as dg
from orchestration.dvc_assets import build_assets
from orchestration.dvc_graph import read_graph
defs = dg.Definitions(assets=build_assets(read_graph(Path(__file__).parent)))
"""
SLOW = "echo $$ > pid; test -e quick || sleep 100;"
WITHIN_S = 120.0


@pytest.mark.slow
def test_after_a_killed_command_the_next_one_finds_its_place_in_the_pool_free(project: Project, request) -> None:
    root, home = project.root, project.root / ".dagster"
    text = (root / "dvc.yaml").read_text().replace("mkdir -p embedded", f"{SLOW} mkdir -p embedded")
    project.write("dvc.yaml", text)
    project.write("small.py", DEFINITIONS)
    project.repro("prepare", single=True)
    home.mkdir()
    shutil.copy(request.config.rootpath / "orchestration/dagster.yaml", home / "dagster.yaml")
    code = request.config.rootpath
    environment = os.environ | {"DAGSTER_HOME": str(home), "PYTHONPATH": f"{code}{os.pathsep}{code / 'src'}"}
    materialize = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "small", "-d", "."]
    materialize += ["--select", "embedded", "--partition", "s-00"]

    killed = subprocess.Popen(materialize, cwd=root, env=environment, start_new_session=True)
    stage = psutil.Process(int(written(root / "pid")))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert ended(stage), "the stage lives on"

    (root / "quick").touch()
    looked = subprocess.run(
        [sys.executable, "-m", "orchestration.dead_runs"], env=environment, capture_output=True, text=True, check=True
    )
    assert looked.stdout.count("-") == 4, f"one run, by its id: {looked.stdout}"
    again = subprocess.run(materialize, cwd=root, env=environment, capture_output=True, timeout=WITHIN_S, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (root / "embedded/s-00/e.txt").read_text() == "embed 1\nuser of s-00\n"
    assert "embed@s-00" not in project.behind_for_dvc()


def written(file: Path) -> str:
    deadline = time.monotonic() + WITHIN_S
    while not (file.exists() and (text := file.read_text().strip())):
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.05)
    return text


def ended(process: psutil.Process) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
