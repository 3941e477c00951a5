"""What no line of ours may do: run what it reads. Found in the syntax of every module, so a new one is seen."""

import ast
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ppd.rewards.clip_score import ClipScorer
from tests.tiny import write_clip

ROOT = Path(__file__).parents[1]
FILES = [file for top in ("src", "orchestration", "bench") for file in sorted((ROOT / top).rglob("*.py"))]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "pd.read_pickle", "subprocess.getoutput"}
# It catches the error of `torch.load(weights_only=True)`; and the tool that breaks code on purpose.
MAY_IMPORT = {("src/ppd/rewards/convert.py", "pickle")}
MAY_CALL = {("bench/mutants.py", "exec")}
WEIGHTLESS = ("Tokenizer", "Processor", "Scheduler", "Config", "Encoder", "Scorer", "Backbone", "Codec")
"""Classes whose `from_pretrained` reads no weights by a library, or is ours and tested on its own."""


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> str | None:
    found = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name]
    return found[0] if found else None


def faults(file: Path) -> Iterator[str]:
    """Every line of a module that could run what it reads, in words."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in imported:
            if module.split(".")[0] in UNSAFE_MODULES and (name_of(file), module) not in MAY_IMPORT:
                yield f"line {node.lineno}: imports {module}"
    for function, call in calls(file):
        where = f"line {call.lineno}: {function}"
        if function in UNSAFE_CALLS and (name_of(file), function) not in MAY_CALL:
            yield f"{where} runs text"
        if option(call, "shell") not in (None, "False"):
            yield f"{where} starts a shell"
        if function.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.JoinedStr | ast.Constant):
            yield f"{where} takes a command as text"
        if function == "torch.load" and option(call, "weights_only") != "True":
            yield f"{where} may unpickle anything"
        if option(call, "allow_pickle") not in (None, "False"):
            yield f"{where} may unpickle anything"
        if option(call, "trust_remote_code") not in (None, "False"):
            yield f"{where} runs code of a checkpoint"
        if function == "YAML" and {option(call, "typ"), option(call, "pure")} not in ({"'safe'", "True"}, {None}):
            yield f"{where} may build objects"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_module_runs_what_it_reads(file: Path) -> None:
    assert [*faults(file)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "subprocess.run(f'ls {name}', shell=True)",
        "subprocess.run(f'ls {name}')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "YAML(typ='unsafe')",
    ],
)
def test_what_is_looked_for_is_found(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(line)
    assert [*faults(tmp_path / "module.py")]


def test_libraries_read_weights_from_safetensors_alone() -> None:
    """Without the option they take a pickle where a folder holds no safetensors."""
    reading = [
        (name_of(file), ast.unparse(call))
        for file in FILES
        if "/pretrain/" not in name_of(file)
        for function, call in calls(file)
        if function.endswith(".from_pretrained")
        and not function.removesuffix(".from_pretrained").endswith((*WEIGHTLESS, "cls", "TransformersVlm"))
        and "PeftModel" not in function  # it has no such option; the bench alone calls it, on what it has written
        and option(call, "use_safetensors") != "True"
    ]
    assert reading == []
    own = [call for file in FILES for function, call in calls(file) if function == "ImageCodec.from_pretrained"]
    assert any(option(call, "use_safetensors") == "True" for call in own)


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, ["a fox"])
    (tmp_path / "model.safetensors").unlink()
    torch.save({"logit_scale": torch.ones(())}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        ClipScorer.from_pretrained(tmp_path)


def test_code_beside_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    write_clip(tmp_path, ["a fox"])
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(ValueError):  # it may do without its own class, or say that it cannot
        ClipScorer.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()
