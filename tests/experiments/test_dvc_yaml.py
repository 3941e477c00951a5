"""experiments/dvc.yaml runs every variant, tells the whole truth about code, and stays apart from the pipeline."""

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
from ruamel.yaml import YAML

from ppd.experiments.cli import EXPERIMENTS
from ppd.experiments.settings import ExperimentSettings
from ppd.params import load_model
from tests.test_dvc_yaml import THIN, file_of, imports_of, within

ROOT = Path(__file__).parents[2]
PIPELINE = YAML(typ="safe", pure=True).load((ROOT / "experiments/dvc.yaml").read_text())["stages"]
THIN_HERE = THIN | {f"ppd.experiments.{name}" for name in ("cli", "settings")}
TEMPLATES = ROOT / "src/ppd/experiments/templates"


def name_of(stage: str) -> str:
    return PIPELINE[stage]["cmd"].split()[2]


def modules(stage: str) -> set[str]:
    todo, found = [EXPERIMENTS[name_of(stage)].split(":")[0]], set()
    while todo:
        module = todo.pop()
        if module not in found | THIN_HERE:
            found.add(module)
            todo += imports_of(module)
    return found


def test_every_variant_is_run_and_every_stage_is_a_function():
    variants = load_model(ROOT / "experiments/params.yaml", ExperimentSettings).variants
    assert PIPELINE["ablation"]["matrix"]["variant"] == list(variants)
    assert {name_of(stage) for stage in PIPELINE} == set(EXPERIMENTS)
    assert all(callable(resolve_name(function)) for function in EXPERIMENTS.values())


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_code_that_it_runs_and_on_no_other(stage):
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")]
    files = {str(file_of(module).relative_to(ROOT)) for module in modules(stage)}
    files |= {str(file.relative_to(ROOT)) for file in TEMPLATES.iterdir() if stage == "page"}
    missing = [file for file in files if not any(within(file, dep) for dep in code)]
    unused = [dep for dep in code if not any(within(file, dep) for file in files)]
    assert (sorted(missing), unused) == ([], [])


@pytest.mark.parametrize("stage", PIPELINE)
def test_it_runs_in_the_root_and_shows_in_a_group_of_its_own(stage):
    assert PIPELINE[stage]["wdir"] == ".."
    assert PIPELINE[stage]["meta"]["dagster"]["group"] == "experiments"


@pytest.mark.slow
def test_the_pipeline_does_not_run_the_experiments():
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ingest" in done.stdout and "experiments" not in done.stdout


@pytest.mark.parametrize("stage", PIPELINE)
def test_every_setting_that_a_stage_depends_on_is_there(stage):
    """DVC says so too, after hours of stages before it."""
    for entry in PIPELINE[stage].get("params", []):
        for file, keys in entry.items():
            settings = YAML(typ="safe", pure=True).load((ROOT / file).read_text())
            for key in keys:
                found = settings
                for part in key.replace("${item.variant}", "default").split("."):
                    assert part in found, f"{file}: {key}"
                    found = found[part]
