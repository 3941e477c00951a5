"""Two at once: nothing is lost, and a wait or a refusal says for what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ppd.stage_times import latest, timed

PIPELINE = """
stages:
  slow:
    cmd: python -c "import time; time.sleep(6); open('slow.txt', 'w').write('done')"
    outs: [slow.txt]
  other:
    cmd: python -c "open('other.txt', 'w').write('done')"
    outs: [other.txt]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def repro(folder: Path, stage: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro", stage]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **both)


@pytest.mark.slow
def test_of_two_dvc_repro_both_are_in_the_lock_or_one_says_why_not(repository: Path) -> None:
    first, second = repro(repository, "slow"), repro(repository, "other")
    said = [process.communicate(timeout=120)[0] for process in (first, second)]
    done = [name for name, process in (("slow", first), ("other", second)) if process.returncode == 0]
    assert done, said
    for process, words in zip((first, second), said, strict=True):
        assert process.returncode == 0 or "lock" in words.lower(), words
    locked = YAML(typ="safe", pure=True).load((repository / "dvc.lock").read_text())["stages"]
    assert set(locked) == set(done)
    last = repro(repository, "other")
    assert last.wait(60) == 0
    assert repro(repository, "slow").wait(60) == 0
    locked = YAML(typ="safe", pure=True).load((repository / "dvc.lock").read_text())["stages"]
    assert set(locked) == {"slow", "other"}


def test_the_journal_of_stage_times_loses_no_line(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from ppd.stage_times import timed\n"
    script += "for i in range(200):\n    with timed(f'{sys.argv[1]}-{i}', Path('times.jsonl')): pass\n"
    running = [subprocess.Popen([sys.executable, "-c", script, name], cwd=tmp_path) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(latest(tmp_path / "times.jsonl")) == 400
    with timed("c", tmp_path / "times.jsonl"):
        pass
    assert len(latest(tmp_path / "times.jsonl")) == 401
