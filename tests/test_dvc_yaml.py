"""dvc.yaml tells the whole truth: what a stage's code imports and which settings it reads, it also depends on.

A dependency that is missing there would leave results stale in silence; one too many would run hours for nothing.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ppd.layout import Layout

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
# Thin by agreement: they say which settings and paths a component gets, and dvc.yaml lists both.
THIN = {
    "ppd",
    "ppd.bf16_on_cpu",
    "ppd.launch",
    "ppd.layout",
    "ppd.parts",
    "ppd.resumable",
    "ppd.seeding",
    "ppd.cli",
    "ppd.device",
    "ppd.errors",
    "ppd.files",
    "ppd.params",
    "ppd.progress",
    "ppd.provenance",
    "ppd.settings",
    *(f"ppd.settings.{file.stem}" for file in (SRC / "ppd/settings").glob("[a-z]*.py")),
    "ppd.stage_times",
    "ppd.stages",
    "ppd.stored_tables",
    "ppd.stored_tensors",
}
PIPELINE = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = ast.parse((SRC / "ppd/stages.py").read_text())
# `sample-base` and `sample` are one function: the command says which.
FUNCTION_OF = {name: stage["cmd"].split()[2] for name, stage in PIPELINE.items()}
# Work in progress and answers that were paid for, which are no result.
SCRATCH = {"unfinished", "reference_errors", "answers", "stage_times"}
LOOSEST = 1.35
"""Lines that a stage depends on, over the lines that it imports."""
FUNCTIONS = {node.name: node for node in STAGES.body if isinstance(node, ast.FunctionDef)}


def file_of(module: str) -> Path | None:
    path = SRC / Path(*module.split("."))
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()]
    return found[0] if found else None


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of ours that the code imports when it runs, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppd":
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (module if file_of(module) else str(node.module) for module in whole)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ppd")


@cache
def imports_of(module: str) -> frozenset[str]:
    file = file_of(module)
    assert file is not None, module
    return frozenset(imported(ast.parse(file.read_text()))) - THIN


def bodies(stage: str) -> list[ast.FunctionDef]:
    """The stage's function and the helpers beside it that it calls."""
    todo, seen = [stage], []
    while todo:
        name = todo.pop()
        if name in FUNCTIONS and name not in seen:
            seen.append(name)
            calls = [node.func for node in ast.walk(FUNCTIONS[name]) if isinstance(node, ast.Call)]
            todo += [call.id for call in calls if isinstance(call, ast.Name)]
    return [FUNCTIONS[name] for name in seen]


def modules(stage: str) -> set[str]:
    """Every module of ours that running the stage imports."""
    todo = [module for body in bodies(stage) for module in imported(body)]
    found: set[str] = set()
    while todo:
        module = todo.pop()
        if module not in found | THIN:
            found.add(module)
            todo += imports_of(module)
    return found


def settings_read(tree: ast.AST) -> Iterator[str]:
    """`a.b` for every use of `settings.a.b` where `settings` is the whole of the settings."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        whole = [arg.arg for arg in function.args.args if arg.annotation and ast.unparse(arg.annotation) == "Settings"]
        inner = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and id(node) not in inner:
                base, _, chain = ast.unparse(node).partition(".")
                if base in whole:
                    yield chain


def settings_of(stage: str) -> set[str]:
    trees: list[ast.AST] = [*bodies(stage), *(ast.parse(file_of(name).read_text()) for name in modules(stage))]
    return {chain for tree in trees for chain in settings_read(tree)}


def paths_named(stage: str) -> set[str]:
    """Paths of the layout that the stage's function and the components that it calls name, of which it is an input."""
    trees: list[ast.AST] = [*bodies(stage), *(ast.parse(file_of(name).read_text()) for name in modules(stage))]
    named = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "layout"
    }
    folders = {"shard": "users", "shard_files": "users", "sampled": "samples", "verdict": "verdicts"}
    names = {folders.get(name, name) for name in named} - SCRATCH
    return {str(getattr(Layout(), name)) for name in names}


def listed(stage: str, *kinds: str) -> list[str]:
    """Entries of these kinds, without their options; templates of params.yaml stay as they are."""
    entries = [entry for kind in kinds for entry in PIPELINE[stage].get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def test_every_stage_function_is_in_dvc_yaml():
    assert set(FUNCTION_OF.values()) == {name for name in FUNCTIONS if not name.startswith("_")}


def test_there_are_as_many_shards_as_settings_say():
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    n_shards = params["preferences"]["n_shards"]
    assert PIPELINE["embed"]["matrix"]["shard"] == [f"s-{at:02}" for at in range(n_shards)]


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_code_that_it_runs_and_on_no_other(stage):
    code = [dep for dep in listed(stage, "deps") if dep.startswith("src/")]
    files = {str(file_of(module).relative_to(ROOT)) for module in modules(FUNCTION_OF[stage])}
    if stage == "sample-base":  # drawing without an adapter reads no embedding
        files = {file for file in files if not file.startswith("src/ppd/users/")}
    missing = [file for file in files if not any(within(file, dep) for dep in code)]
    unused = [dep for dep in code if not any(within(file, dep) for file in files)]
    assert (sorted(missing), unused) == ([], [])


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_settings_that_it_reads_and_on_no_other(stage):
    used = settings_of(FUNCTION_OF[stage])
    params = listed(stage, "params")
    missing = [chain for chain in used if not any(f"{chain}.".startswith(f"{param}.") for param in params)]
    unused = [param for param in params if not any(f"{chain}.".startswith(f"{param}.") for chain in used)]
    assert (sorted(missing), unused) == ([], [])


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_paths_that_it_names_or_makes_them(stage):
    known = listed(stage, "deps", "outs", "metrics", "plots")
    named = paths_named(FUNCTION_OF[stage])
    if stage == "sample-base":
        named -= {"artifacts/users", "artifacts/whitening.safetensors", "models"}
    missing = [path for path in named if not any(within(path, entry) or within(entry, path) for entry in known)]
    assert missing == []


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_every_checkpoint_that_it_loads(stage):
    names = {param.removeprefix("models.") for param in listed(stage, "params") if param.startswith("models.")}
    checkpoints = names & {"prior", "vlm", "attribute_classifier", "clip"}
    assert {f"${{models.{name}}}" for name in checkpoints} == {
        dep for dep in listed(stage, "deps") if dep.startswith("$")
    }


def test_only_one_stage_reads_the_truth_and_only_judging_and_reporting_what_it_leaves():
    reading = {name for name in PIPELINE if "data" in listed(name, "deps")}
    knowing = {name for name in PIPELINE if "artifacts/truth" in listed(name, "deps")}
    assert (reading, knowing) == ({"truth"}, {"judge", "report"})
    assert not any(within(dep, "data/truth") for name in PIPELINE for dep in listed(name, "deps"))


def lines(files: Iterable[str]) -> int:
    return sum(len((ROOT / file).read_text().splitlines()) for file in files)


def dependencies() -> dict[str, tuple[int, int]]:
    """Lines of code that each stage depends on, and that it imports."""
    table = {}
    for stage in PIPELINE:
        deps = [ROOT / dep for dep in listed(stage, "deps") if dep.startswith("src/")]
        files = {file for dep in deps for file in (dep.rglob("*.py") if dep.is_dir() else [dep])}
        imports = {str(file_of(module).relative_to(ROOT)) for module in modules(FUNCTION_OF[stage])}
        table[stage] = (lines(str(file.relative_to(ROOT)) for file in files), lines(imports))
    return table


def test_no_stage_depends_on_much_more_code_than_it_runs():
    loose = {stage: n for stage, n in dependencies().items() if n[0] > LOOSEST * n[1] and stage != "sample-base"}
    assert loose == {}


def test_an_edit_of_a_recipe_or_of_the_sampler_makes_little_stale():
    def stale(file: str) -> set[str]:
        return {name for name in PIPELINE if any(within(file, dep) for dep in listed(name, "deps"))}

    assert stale("src/ppd/pretrain/prior.py") == set()
    assert stale("src/ppd/diffusion/sampling/sampler.py") == {"sample", "sample-base"}
    assert stale("src/ppd/vlm/server_judge.py") == {"judge"}


if __name__ == "__main__":
    for stage, (depended, run) in dependencies().items():
        print(f"{stage:12} depends on {depended:5} lines, imports {run:5}: {depended / run:.2f}")
