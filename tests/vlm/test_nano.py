"""The shipped nano VLM keeps what its card promises, on a small sample of held-out people."""

from pathlib import Path

import pytest

from ppd.pretrain.vlm_quality import vlm_measures
from ppd.settings import PeopleSettings
from ppd.vlm.transformers_backend import TransformersVlm

CHECKPOINT = Path(__file__).parents[2] / "data" / "models" / "vlm"

BARS = {
    "judge / exact, 4 pairs": 0.95,
    "same verdict when positions are swapped, 4 pairs": 0.93,
    "embedding / posterior mean, R²": 0.7,
    "top 5: linear readout / exact": 0.7,
    "profile names the strongest trait, 4 pairs, posterior sure": 0.6,
}


@pytest.mark.slow
def test_the_shipped_model_is_near_the_exact_posterior(atlas):
    vlm = TransformersVlm.load(CHECKPOINT, batch_size=64)
    measures = {measure.name: measure for measure in vlm_measures(vlm, atlas, PeopleSettings(), 64)}
    for name, bar in BARS.items():
        assert measures[name].high >= bar, measures[name]
    assert measures["judge, 4 pairs"].value > 0.75
    assert measures["judge, 8 pairs"].value > measures["judge, 1 pairs"].value
