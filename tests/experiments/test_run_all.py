"""The queue without DVC: in order, resumable, and it knows every stage and experiment that DVC knows."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from ppd.experiments.cli import EXPERIMENTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "experiments/run_all.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_all", module)  # dataclasses ask for it
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DONE", tmp_path / "queue")
    return module


def append(file: Path, word: str) -> str:
    return f"open({str(file)!r}, 'a').write({word!r})"


def test_jobs_wait_for_what_they_need_and_a_killed_queue_goes_on(run_all: ModuleType, tmp_path: Path) -> None:
    said = tmp_path / "said"
    todo = {
        "c": run_all.Job(append(said, "c"), ("a", "b")),
        "a": run_all.Job(append(said, "a")),
        "b": run_all.Job(append(said, "b"), ("a",)),
        "broken": run_all.Job("raise SystemExit(1)", ("a",)),
        "after": run_all.Job(append(said, "!"), ("broken",)),
    }
    assert run_all.run(list(todo), todo, 2, "", {}) == ["broken", "after"]
    assert said.read_text() == "abc"
    todo["broken"] = run_all.Job(append(said, "d"), ("a",))
    assert run_all.run(list(todo), todo, 2, "", {}) == []
    assert said.read_text() == "abcd!"
    assert json.loads((tmp_path / "queue/a.json").read_text())["seconds"] >= 0


def test_what_is_asked_for_brings_what_it_waits_for(run_all: ModuleType) -> None:
    todo = run_all.jobs(("s-00",), ["default"])
    assert run_all.with_what_it_waits_for(["sample-base"], todo) == ["ingest", "sample-base"]
    names = run_all.with_what_it_waits_for(["fresh-people", "ablation-default"], todo)
    assert {"seeds", "finetune-ppd", "shared-inputs"} <= set(names)
    for at, name in enumerate(names):
        assert set(todo[name].after) <= set(names[:at])
    with pytest.raises(SystemExit, match="no job"):
        run_all.with_what_it_waits_for(["nothing"], todo)


def test_it_runs_all_that_dvc_runs(run_all: ModuleType) -> None:
    todo = run_all.jobs(("s-00",), ["default"])
    calls = " ".join(job.call for job in todo.values())
    functions = set(EXPERIMENTS.values())
    assert {f for f in functions if f.removeprefix("ppd.experiments.") not in calls} == NOT_HERE
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    assert all(f"stages.{name.split('-')[0]}(" in calls for name in stages)


NOT_HERE = {"ppd.experiments.page:write_page", "ppd.experiments.flow:write_flow"}
"""The page is written from what came back; flow matching is a job of its own."""


def test_missing_data_comes_from_the_store_and_what_is_there_stays(run_all: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text((ROOT / "data.dvc").read_text())
    (tmp_path / ".dvc").symlink_to(ROOT / ".dvc")
    mine = tmp_path / "data/models/prior/README.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    run_all.restore(tmp_path)
    assert mine.read_text() == "mine"
    assert len([file for file in (tmp_path / "data").rglob("*") if file.is_file()]) > 20
