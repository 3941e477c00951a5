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
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = ("tests/diffusion/training/test_loss.py", "tests/diffusion/training/test_trainer.py")
TESTS = {
    "ppd.diffusion.training.loss": TRAINING,
    "ppd.diffusion.training.objective": TRAINING,
    "ppd.diffusion.training.dataset": (*TRAINING, "tests/diffusion/training/test_timesteps.py"),
    "ppd.diffusion.training.timesteps": ("tests/diffusion/training/test_timesteps.py", *TRAINING),
    "ppd.diffusion.training.validation": TRAINING,
    "ppd.preferences.splits": ("tests/preferences/test_splits.py", "tests/preferences/test_leakage.py"),
    "ppd.users.whitening": ("tests/users",),
    "ppd.users.manifest": ("tests/users",),
    "ppd.diffusion.adapter.user_attention": ("tests/diffusion/adapter", "tests/diffusion/sampling/test_sampler.py"),
    "ppd.diffusion.sampling.sampler": ("tests/diffusion/sampling",),
    "ppd.evaluation.plan": ("tests/evaluation/test_plan.py",),
    "ppd.evaluation.win_rates": ("tests/evaluation",),
    "ppd.statistics.bootstrap": ("tests/statistics", "tests/evaluation/test_win_rates.py"),
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
LIMIT_S = 300


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every token that can be changed: its node, the field, and the place in it."""
    for node in ast.walk(tree):
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


def without_annotations(tree: ast.AST) -> ast.AST:
    """`X | None` in an annotation computes nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                argument.annotation = None
    return tree


def mutate(node: ast.AST, field: str, index: int | None) -> str:
    """Change the tree in place; the change in words."""
    before = ast.unparse(node)
    match node, field:
        case ast.Compare(), "ops":
            assert index is not None
            node.ops[index] = SWAPS[type(node.ops[index])]()
        case ((ast.BinOp() | ast.BoolOp() | ast.AugAssign()), "op"):
            node.op = SWAPS[type(node.op)]()
        case ast.UnaryOp(), "drop":
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
            if not isinstance(node.op, ast.UAdd):
                node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
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


def noticed(name: str, file: Path, tree: ast.AST, tests: Sequence[str]) -> str:
    """Run the tests on the changed module in a fork: "noticed", "survived" or "too slow" (which is noticed)."""
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
            sys.meta_path.insert(0, Mutated(name, file, tree))
            options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0"]
            code = pytest.main([*options, *(str(ROOT / test) for test in tests)])
            os._exit(int(code) != 0)
    started = time.monotonic()
    while time.monotonic() - started < LIMIT_S:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "noticed" if status else "survived"
        time.sleep(0.2)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "too slow"


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
        trees[name] = (file, without_annotations(ast.parse(file.read_text())))
        todo += [(name, number) for number in range(len(list(places(trees[name][1]))))]
    sample = random.Random(given.seed).sample(todo, min(given.n, len(todo)))
    results = []
    for name, number in sample:
        file, tree = trees[name]
        tree = copy.deepcopy(tree)
        words = mutate(*list(places(tree))[number])
        outcome = noticed(name, file, ast.fix_missing_locations(tree), TESTS[name])
        results.append({"module": name, "change": words, "outcome": outcome})
        print(outcome, name, words, flush=True)
        survived = sum(result["outcome"] == "survived" for result in results)
        score = {"tried": len(results), "of": len(todo), "noticed": len(results) - survived, "seed": given.seed}
        given.out.write_text(json.dumps(score | {"mutants": results}, indent=1) + "\n")
    print(f"{len(results) - survived} of {len(results)} noticed")


if __name__ == "__main__":
    main()
