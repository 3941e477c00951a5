"""Small faults, one at a time, and whether the nearest tests notice: `python bench/mutants.py --n 200`.

Each fault is a token of a module whose faults change results: another comparison or operator, a number one higher, a
condition turned round. A random sample of all that there are is tried, each in a fork of a process that has run the
module's nearest tests already. What survives is listed, to be looked at: some change nothing.
"""

import argparse
import ast
import copy
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TRAINED = ("loss", "objective", "timesteps", "dataset", "validation", "trainer")
TRAINING = tuple(f"tests/diffusion/training/test_{name}.py" for name in TRAINED)
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


def functions_of(value: object, module: str) -> Iterator[FunctionType]:
    """The module's own function behind a name: of a method, a property, a class method, under its decorators."""
    value = getattr(value, "fget", getattr(value, "__func__", value))
    while value is not None:
        if isinstance(value, FunctionType) and value.__module__ == module:
            yield value
        value = getattr(value, "__wrapped__", None)


def take_over(here: Mapping[str, object], there: Mapping[str, object], module: str) -> None:
    """Give the functions of a namespace, and of its classes, the code and the defaults that they have in another."""
    for name, value in here.items():
        if isinstance(value, type) and value.__module__ == module:
            take_over(vars(value), vars(there[name]), module)
        elif name in there:
            for old, new in zip(functions_of(value, module), functions_of(there[name], module), strict=True):
                old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def put_in(tree: ast.AST, module: ModuleType) -> None:
    """Let an imported module, wherever its functions are known already, behave as the changed code does.

    What is not reached so stays as it was: the fault survives, and is never taken for a noticed one.
    """
    changed = ModuleType(module.__name__)
    exec(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"), vars(changed))
    take_over(vars(module), vars(changed), module.__name__)
    numbers = {name: value for name, value in vars(changed).items() if isinstance(value, int | float | tuple)}
    vars(module).update(numbers)


def passes(tests: Sequence[str]) -> bool:
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0"]
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        return pytest.main([*options, *(str(ROOT / test) for test in tests)]) == 0


def outcome_of(tree: ast.AST, name: str) -> str:
    """Run the tests of a changed module in a fork: "noticed", "survived" or "too slow" (which is noticed).

    Seconds are those of the processor, so that a busy machine makes no fault look noticed; the alarm ends what waits.
    """
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_S, LIMIT_CPU_S))
        signal.alarm(60 * LIMIT_CPU_S)
        survived = False
        with suppress(BaseException):
            put_in(tree, sys.modules[name])
            survived = passes(TESTS[name])
        os._exit(not survived)
    _, status = os.waitpid(child, 0)
    return "too slow" if os.WIFSIGNALED(status) else "noticed" if status else "survived"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modules", nargs="*", default=list(TESTS))
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/mutants.json")
    given = parser.parse_args()
    os.chdir(ROOT)
    trees, todo = {}, []
    for name in given.modules:
        file = ROOT / "src" / Path(*name.split(".")).with_suffix(".py")
        trees[name] = (file, ast.parse(file.read_text()))
        todo += [(name, number) for number in range(len(list(places(trees[name][1]))))]
    sample = random.Random(given.seed).sample(todo, min(given.n, len(todo)))
    for tests in dict.fromkeys(TESTS[name] for name, _ in sample):  # also imports all that the forks need
        if not passes(tests):
            raise SystemExit(f"these fail without a fault: {' '.join(tests)}")
    for name in {TESTS[name]: name for name, _ in sample}.values():  # after all of them, as the faults will be tried
        if outcome_of(trees[name][1], name) != "survived":
            raise SystemExit(f"the unchanged {name} does not pass its tests in a fork")
    results = []
    for name, number in sample:
        file, tree = trees[name]
        tree = copy.deepcopy(tree)
        words = mutate(*list(places(tree))[number])
        outcome = outcome_of(tree, name)
        results.append({"module": name, "change": words, "outcome": outcome})
        print(outcome, name, words, flush=True)
        survived = sum(result["outcome"] == "survived" for result in results)
        score = {"tried": len(results), "of": len(todo), "noticed": len(results) - survived, "seed": given.seed}
        given.out.write_text(json.dumps(score | {"mutants": results}, indent=1) + "\n")
    print(f"{len(results) - survived} of {len(results)} noticed")


if __name__ == "__main__":
    main()
