"""The code location as Dagster loads it."""

import subprocess
import sys
from pathlib import Path

from dvc.repo import Repo
from ruamel.yaml import YAML

from orchestration.definitions import defs

ROOT = Path(__file__).parents[2]


def test_loading_imports_no_torch():
    # Every step of a run loads the code location again, and CUDA must not be initialised in any of them.
    code = (
        "import sys; import orchestration.definitions; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_graph_is_written_once():
    lines = (ROOT / "orchestration/definitions.py").read_text().splitlines()
    assert len(lines) < 60


def test_every_output_of_dvc_yaml_is_an_asset():
    with Repo(str(ROOT)) as repo:
        n_outs = sum(len(stage.outs) for stage in repo.index.stages if not stage.addressing.startswith("embed@"))
    graph = defs.resolve_asset_graph()
    made = [key for key in graph.materializable_asset_keys if not graph.get(key).group_name.endswith("_parts")]
    assert len(made) == n_outs + 1 + 2  # all shards of `embed` are one asset; history and watched users are not DVC's


def test_groups_are_listed_as_the_data_flows():
    graph = defs.resolve_asset_graph()
    groups = sorted({graph.get(key).group_name for key in graph.get_all_asset_keys()})
    assert [group.partition("_")[2] for group in groups] == [
        "inputs", "preferences", "users", "models", "evaluation", "experiments", "parts", "settings", "code",
    ]  # fmt: skip


def test_no_annotations_are_postponed_where_dagster_reads_them():
    # `from __future__ import annotations` turns `context: AssetExecutionContext` into text that Dagster refuses.
    for file in (ROOT / "orchestration").glob("*.py"):
        assert "from __future__ import annotations" not in file.read_text(), file


def test_every_asset_says_what_it_is():
    graph = defs.resolve_asset_graph()
    assert [key for key in graph.get_all_asset_keys() if not graph.get(key).description] == []


def test_the_workspace_file_finds_the_code_location_without_an_installation():
    # Without the working directory Dagster finds installed packages only.
    [entry] = YAML(typ="safe", pure=True).load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"]["module_name"] == "orchestration.definitions"
    assert (ROOT / entry["python_module"]["working_directory"]).resolve() == ROOT


def test_every_stage_that_loads_a_model_takes_its_turn_at_the_accelerator():
    for file in ("dvc.yaml", "experiments/dvc.yaml"):
        for name, stage in YAML(typ="safe", pure=True).load((ROOT / file).read_text())["stages"].items():
            loads = any(dep.startswith(("${models.", "data/models")) for dep in stage["deps"])
            assert stage["meta"]["dagster"].get("pool") == ("accelerator" if loads else None), name
    ops = {op.name: op.pool for op in defs.resolve_job_def("reevaluate").graph.iterate_op_defs()}
    assert ops == {"wait_until_made": None, "evaluate": "accelerator"}
