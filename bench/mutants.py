"""Small faults, one at a time, and whether the nearest tests notice: `python bench/mutants.py --n 200`.

Each fault is a token of a module whose faults change results: another comparison or operator, a number one higher, a
condition turned round. A random sample of all that there are is tried, each in a fork of a process that has imported
the libraries already, with the module's nearest tests. What survives is listed, to be looked at: some change nothing.
"""

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = tuple(f"tests/diffusion/training/test_{name}.py" for name in ("loss", "objective", "timesteps", "trainer"))
TESTS = {
    "ppd.diffusion.training.loss": TRAINING,
    "ppd.diffusion.training.objective": TRAINING,
    "ppd.diffusion.training.dataset": TRAINING,
    "ppd.diffusion.training.timesteps": TRAINING,
    "ppd.diffusion.training.validation": TRAINING,
    "ppd.preferences.splits": (
        "tests/preferences/test_splits_by_hand.py",
        "tests/preferences/test_leakage.py",
        "tests/preferences/test_splits.py",
    ),
    "ppd.users.whitening": ("tests/users/test_whitening.py",),
    "ppd.users.manifest": ("tests/users/test_whitening.py",),
    "ppd.diffusion.adapter.user_attention": (
        "tests/diffusion/adapter/test_user_attention.py",
        "tests/diffusion/adapter/test_lora.py",
        "tests/diffusion/sampling/test_sampler.py",
    ),
    "ppd.diffusion.sampling.sampler": ("tests/diffusion/sampling",),
    "ppd.evaluation.plan": ("tests/evaluation/test_plan_by_hand.py", "tests/evaluation/test_plan.py"),
    "ppd.evaluation.win_rates": ("tests/evaluation/test_win_rates.py", "tests/evaluation/test_vlm_verdicts.py"),
    "ppd.statistics.bootstrap": ("tests/statistics/test_bootstrap.py", "tests/evaluation/test_win_rates.py"),
    "ppd.vlm.judging": (
        "tests/vlm/test_judging.py",
        "tests/vlm/test_reply.py",
        "tests/evaluation/test_vlm_verdicts.py",
    ),
}
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
LIMIT_CPU_S = 100


def changes_nothing(node: ast.AST) -> bool:
    """Forms in which a fault cannot change a result: guards and notes, for who reads and for mypy."""
    match node:
        case ast.keyword(arg="frozen" | "slots"):  # of a dataclass: what nobody assigns to may be assigned to
            return True
        case ast.keyword(arg="strict", value=ast.Constant(value=True)):  # of a zip: refuses lengths that always agree
            return True
        case ast.keyword(arg="usedforsecurity"):  # says what a hash is for; its digest is the same
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):  # names in annotations, imported for mypy alone
            return True
    return False


def walked(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below that compute something: `X | None` in an annotation does not."""
    if changes_nothing(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walked(child)


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every token that can be changed: its node, the field, and the place in it."""
    for node in walked(tree):
        match node:
            case ast.Compare():
                yield from ((node, "ops", i) for i, op in enumerate(node.ops) if type(op) in SWAPS)
            case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in SWAPS:
                yield node, "op", None
            case ast.UnaryOp() if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
                yield node, "drop", None
            case ast.Constant() if isinstance(node.value, bool | int | float):
                yield node, "value", None
            case ast.If() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                yield node, "test", None


def mutate(node: ast.AST, field: str, index: int | None) -> str:
    """Change the tree in place; the change in words."""
    before = ast.unparse(node)
    match node, field:
        case ast.Compare(), "ops":
            assert index is not None
            node.ops[index] = SWAPS[type(node.ops[index])]()
        case ((ast.BinOp() | ast.BoolOp() | ast.AugAssign()), "op"):
            node.op = SWAPS[type(node.op)]()
        case ast.UnaryOp(op=ast.USub()), "drop":
            node.op = ast.UAdd()
        case ast.UnaryOp(), "drop":  # not and ~: twice is not at all
            node.operand = ast.UnaryOp(node.op, node.operand)
        case ast.Constant(), "value":
            node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1
        case ((ast.If() | ast.IfExp()), "test"):
            node.test = ast.UnaryOp(ast.Not(), node.test)
    return f"line {getattr(node, 'lineno', 0)}: {before.splitlines()[0]}  ->  {ast.unparse(node).splitlines()[0]}"


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module its changed code."""

    def __init__(self, name: str, file: Path, tree: ast.AST) -> None:
        self.name, self.file, self.tree = name, file, tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return importlib.util.spec_from_file_location(name, self.file, loader=self) if name == self.name else None

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(compile(self.tree, str(self.file), "exec"), vars(module))


def run_tests(tests: Sequence[str], mutated: Mutated | None = None) -> str:
    """Run the tests in a fork, on the changed module where one is given: "passed", "failed" or "too slow".

    Seconds are those of the processor, so that a busy machine makes no fault look noticed; the alarm ends what waits.
    """
    child = os.fork()
    if not child:
        import pytest

        with (
            Path(os.devnull).open("w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_S, LIMIT_CPU_S))
            signal.alarm(60 * LIMIT_CPU_S)
            if mutated is not None:
                sys.meta_path.insert(0, mutated)
            options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0"]
            code = pytest.main([*options, *(str(ROOT / test) for test in tests)])
            os._exit(int(code) != 0)
    _, status = os.waitpid(child, 0)
    return "too slow" if os.WIFSIGNALED(status) else "failed" if status else "passed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="*", default=list(TESTS))
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/mutants.json")
    given = parser.parse_args()
    os.chdir(ROOT)
    for library in ("torch", "pandas", "diffusers", "transformers", "accelerate", "hypothesis", "scipy.stats", "rich"):
        importlib.import_module(library)
    importlib.import_module("diffusers.models.attention_processor")
    trees, todo = {}, []
    for name in given.modules:
        file = ROOT / "src" / Path(*name.split(".")).with_suffix(".py")
        trees[name] = (file, ast.parse(file.read_text()))
        todo += [(name, number) for number in range(len(list(places(trees[name][1]))))]
    sample = random.Random(given.seed).sample(todo, min(given.n, len(todo)))
    for tests in sorted({TESTS[name] for name, _ in sample}):
        if (outcome := run_tests(tests)) != "passed":
            raise SystemExit(f"without a fault, {' '.join(tests)}: {outcome}")
    results = []
    for name, number in sample:
        file, tree = trees[name]
        tree = copy.deepcopy(tree)
        words = mutate(*list(places(tree))[number])
        mutated = Mutated(name, file, ast.fix_missing_locations(tree))
        outcome = {"passed": "survived", "failed": "noticed"}.get(end := run_tests(TESTS[name], mutated), end)
        results.append({"module": name, "change": words, "outcome": outcome})
        print(outcome, name, words, flush=True)
        survived = sum(result["outcome"] == "survived" for result in results)
        score = {"tried": len(results), "of": len(todo), "noticed": len(results) - survived, "seed": given.seed}
        given.out.write_text(json.dumps(score | {"mutants": results}, indent=1) + "\n")
    print(f"{len(results) - survived} of {len(results)} noticed")


if __name__ == "__main__":
    main()
