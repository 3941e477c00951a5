"""The settings file: what is wrong in it is said in words that lead to the fix."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from ppd.errors import InputError
from ppd.params import dotted_keys
from ppd.settings import RENAMED, Settings, load_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params(tmp_path):
    """Writes a settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return path

    return write


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_settings(path)
    return str(caught.value)


def test_the_repository_holds_every_setting_in_its_params_yaml():
    # A default that only the code knows could change without DVC seeing it, and results would be stale in silence.
    written = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    assert load_settings(ROOT / "params.yaml").model_dump(mode="json") == written


def test_every_model_inside_the_settings_is_frozen_and_refuses_unknown_keys():
    def models(model: type[BaseModel]):
        yield model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from models(field.annotation)

    for model in models(Settings):
        assert model.model_config == ConfigDict(frozen=True, extra="forbid"), model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("peple: {}", "peple: no such setting. Did you mean people?"),
        ("people: {temprature: 1.0}", "people.temprature: no such setting. Did you mean people.temperature?"),
        ("finetune: {loss: {bta: 3.0}}", "finetune.loss.bta: no such setting. Did you mean finetune.loss.beta?"),
        ("people: {token_dim: 3}", "people.token_dim: no such setting. Did you mean finetune.attention.token_dim?"),
        ("people: {zzz: 3}", "people.zzz: no such setting. Known here: indifference,"),
        ("people: {temperature: hot}", 'people.temperature: Input should be a valid number, found "hot"'),
        ("people: {temperature: '1.0'}", 'people.temperature: Input should be a valid number, found "1.0"'),
        ("people: {temperature: 0}", "people.temperature: Input should be greater than 0, found 0"),
        ("finetune: {steps: 1.5}", "finetune.steps: Input should be a valid integer"),
        ("preferences: {source_format: csv}", "Input should be 'pick-a-pic', 'folder' or 'studio', found \"csv\""),
        ("preferences: {n_shards: 100}", "preferences.n_shards: Input should be less than or equal to 64"),
        ("people: 3", "people: Input should be an object, found 3"),
        ("preferences: {validation_user_share: 0.6, test_user_share: 0.6}", "leave some to train on"),
        ("finetune: {timesteps: {distribution: logit-normal}}", "write power: 1"),
        ("finetune: {timesteps: {shift: 3.0, importance_weighted: true}}", "with shift: 1 alone"),
        ("finetune: {pairs_per_step: 10, micro_batch_pairs: 3}", "must be a multiple of micro_batch_pairs"),
        ("people: {}\npeople: {}", 'duplicate key "people"'),
        ("people: [1, 2", "is no valid YAML"),
        ("- 1", "must hold settings by name, not list"),
        ("", "must hold settings by name, not NoneType"),
    ],
)
def test_a_wrong_file_is_explained(params, text, expected):
    path = params(text)
    message = complaint(path)
    assert expected in message
    assert str(path) in message


def test_all_wrong_keys_are_named_at_once(params):
    message = complaint(params("people: {temperature: -1, strng: 3}\nfinetune: {steps: many}"))
    assert [key in message for key in ("people.temperature", "people.strng", "finetune.steps")] == [True] * 3


def test_a_missing_file_is_explained(tmp_path):
    assert "cannot be read (No such file or directory)" in complaint(tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(params):
    # YAML 1.1 parsers take 1e-4 for text; DVC's does not.
    settings = load_settings(params("finetune: {learning_rate: 1e-4, steps: 1_000}\npeople: {strong: [1, 2]}"))
    assert settings.finetune.learning_rate == 1e-4
    assert settings.finetune.steps == 1000
    assert settings.people.strong == (1.0, 2.0)


def test_dotted_keys_name_every_level():
    assert {"finetune", "finetune.loss", "finetune.loss.beta"} <= set(dotted_keys(Settings))


def test_reading_settings_imports_no_torch():
    code = "import sys; from ppd.settings import load_settings; load_settings(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["params.paper.yaml", "params.paper-recommended.yaml"])
def test_the_paper_scale_leaves_no_setting_of_the_pipeline_to_a_default(name: str):
    written = YAML(typ="safe", pure=True).load((ROOT / name).read_text())
    assert written.pop("people") == {}
    simulation = {"people", "log"}
    assert load_settings(ROOT / name).model_dump(mode="json", exclude=simulation) == written


def test_what_is_recommended_differs_from_the_paper_where_it_says_so():
    """Sections are lists of lines, so a marked line stands for the value in it, and for a section all below it."""
    paper, ours = ((ROOT / f"params.{name}.yaml").read_text().splitlines() for name in ("paper", "paper-recommended"))
    value = re.compile(r"^( +)(\w+): (.*?)(?: #.*)?$")
    section = ""
    for theirs, mine in zip(paper[3:], ours[3:], strict=True):
        if mine.endswith(":") or ": #" in mine:
            section = mine
        said = value.match(mine), value.match(theirs)
        if said[0] and said[1] and said[0].groups() != said[1].groups():
            assert "[differs]" in mine or "[differs]" in section, mine
            assert said[0].group(2) in (ROOT / "docs/recipe.md").read_text(), f"docs/recipe.md says nothing of {mine}"


def test_the_paper_scale_keeps_the_papers_settings():
    settings = load_settings(ROOT / "params.paper.yaml")
    assert (settings.preferences.pairs_per_group, settings.preferences.max_groups) == (4, 20)
    assert (settings.finetune.learning_rate, settings.finetune.pairs_per_step) == (1e-5, 768)
    assert (settings.embedding.read, settings.embedding.max_new_tokens) == ("answer-end", 1024)
    assert (settings.finetune.precision, settings.sampling.precision) == ("bf16", "bf16")


def test_the_defaults_are_the_values_of_the_settings_file():
    assert load_settings(ROOT / "params.yaml") == Settings()


@pytest.mark.parametrize(("old", "new"), list(RENAMED.items()))
def test_a_setting_of_before_is_answered_with_its_new_name(tmp_path: Path, old: str, new: str):
    *sections, name = old.split(".")
    file = tmp_path / "params.yaml"
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    file.write_text("\n".join([*lines, f"{'  ' * len(sections)}{name}: 1"]) + "\n")
    with pytest.raises(InputError, match=re.escape(f"{old}: is called {new} now")):
        load_settings(file)
    assert new in set(dotted_keys(Settings))


def test_a_setting_that_is_gone_is_answered_with_why(params):
    assert "finetune.loss.error: is gone: errors are those of what the base's network predicts" in complaint(
        params("finetune: {loss: {error: noise}}")
    )


def test_the_id_of_a_model_on_a_hub_is_refused_with_what_to_do(params):
    file = params("models: {vlm: llava-hf/llava-onevision-qwen2-7b-ov-hf}\n")
    with pytest.raises(InputError, match=r"models\.vlm: there is no folder .*hf download llava-hf/"):
        load_settings(file)
