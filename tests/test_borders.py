"""The borders of the packages: who may import whom."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests.test_dvc_yaml import SRC, file_of, imported

FILES = {".".join(file.relative_to(SRC).with_suffix("").parts): file for file in sorted(SRC.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}
BEFORE_SIMULATION = ("preferences", "users", "vlm", "diffusion", "rewards", "statistics", "evaluation")


def package(module: str) -> str:
    """`ppd.diffusion.model` of `ppd.diffusion.model.backbone`; a module right below ppd is its own package."""
    parts = module.split(".")
    depth = 3 if parts[1:2] in (["diffusion"], ["simulation"]) and len(parts) > 3 else 2
    return ".".join(parts[:depth])


def imports(module: str) -> set[str]:
    """Modules of ours that a module imports, also where it only names types: a border is a border."""
    tree = ast.parse(MODULES[module].read_text())
    found = set(imported(tree))
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ppd"):
            found.update(
                f"{node.module}.{a.name}" if file_of(f"{node.module}.{a.name}") else str(node.module)
                for a in node.names
            )
    return found


def edges() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for other in imports(module):
            if package(other) != package(module):
                yield package(module), package(other)


def test_no_package_imports_another_one_back():
    graph: dict[str, set[str]] = {}
    for one, other in edges():
        graph.setdefault(one, set()).add(other)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", BEFORE_SIMULATION)
def test_nothing_at_or_before_evaluation_knows_the_simulation(name: str):
    inside = [module for module in MODULES if module.startswith(f"ppd.{name}")]
    assert inside
    knowing = {module for module in inside for other in imports(module) if other.startswith("ppd.simulation")}
    assert knowing == set()


def test_only_the_command_imports_the_stages():
    importing = {module for module in MODULES if "ppd.stages" in imports(module)}
    assert importing == {"ppd.cli"}


def test_stages_do_no_arithmetic():
    """Only paths are put together there: what is worked out has a component of its own."""
    tree = ast.parse(MODULES["ppd.stages"].read_text())
    operators = {type(node.op) for node in ast.walk(tree) if isinstance(node, ast.BinOp | ast.AugAssign)}
    assert operators - {ast.Div, ast.BitOr} == set()  # `/` of paths, `|` of types
    assert not any(isinstance(node, ast.For) and node.orelse for node in ast.walk(tree))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not named & {"np", "pd", "torch", "sum", "min", "max"}


def test_the_library_knows_neither_dagster_nor_dvc():
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"dagster", "dvc"}, module


def test_where_files_are_is_said_in_one_place():
    """No other module writes a path of the layout as text, beyond defaults that a command shows in its help."""
    written = ("artifacts/", "data/truth", "data/choices", "runs/unfinished", "reports/")
    allowed = {"ppd.layout", "ppd.cli", "ppd.personalizer", "ppd.reevaluation", "ppd.doctor", "ppd.settings"}
    found = {
        module
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(written)
    }
    assert found - allowed == set()
