"""What the experiments vary."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ppd.errors import InputError
from ppd.experiments.cli import experiment
from ppd.experiments.settings import ExperimentSettings, Variant, changed
from ppd.settings import Settings

ROOT = Path(__file__).parents[2]


def test_a_change_replaces_one_value_and_leaves_its_neighbours():
    settings = changed(Settings(), {"finetune": {"loss": {"beta": 7.0}, "seed": 3}})
    expected = Settings().finetune.model_copy(
        update={"loss": Settings().finetune.loss.model_copy(update={"beta": 7.0}), "seed": 3}
    )
    assert settings.finetune == expected
    assert settings.model_copy(update={"finetune": Settings().finetune}) == Settings()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"finetune": {"bta": 1.0}}, "bta"), ({"finetune": {"loss": {"beta": -1.0}}}, "greater than 0")],
)
def test_a_change_is_checked_like_any_setting(changes, complaint):
    with pytest.raises(ValidationError, match=complaint):
        changed(Settings(), changes)


def test_what_is_confirmed_must_be_a_variant():
    with pytest.raises(ValidationError, match="names plain, but there is no such variant"):
        ExperimentSettings.model_validate(
            {"trial": {"confirmed": ["plain"]}, "variants": {"default": Variant(varies="nothing", value="default")}}
        )


def test_a_variant_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(InputError, match=r"experiments/params.yaml: no variant 'beta-7'; there are default, plain, "):
        experiment(
            "ablation", variant="beta-7", params=ROOT / "params.yaml", experiments=ROOT / "experiments/params.yaml"
        )
