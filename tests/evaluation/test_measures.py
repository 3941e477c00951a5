from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from ppd.evaluation.measures import concept_accuracy, mean_rewards, style_shares
from ppd.rewards.scorer import Images
from ppd.simulation.truth.utility import IMAGE_KEY


def test_each_model_is_measured_on_its_own_images() -> None:
    rows = [("base", "", c, s, True, 0) for c in ("fox", "owl") for s in range(4)]
    rows += [("ppd", "a", c, s, c == "fox", s % 4) for c in ("fox", "owl") for s in range(4)]
    table = pd.DataFrame(rows, columns=[*IMAGE_KEY, "concept_right", "style"]).set_index(IMAGE_KEY)
    metrics = concept_accuracy(table) | style_shares(table)
    assert metrics["concept_accuracy.base"] == 1
    assert metrics["concept_accuracy.ppd"] == pytest.approx(0.5)
    assert metrics["concept_accuracy.ppd.ci_low"] == 0, "all or nothing by caption: the interval says so"
    assert metrics["style_share.base.paper"] == 1
    assert metrics["style_share.ppd.pixel"] == pytest.approx(0.25)


def test_mean_rewards_are_each_models_own_with_an_interval_over_captions() -> None:
    wishes = pd.DataFrame({"caption": ["a fox", "a fox", "an owl", "an owl"]})
    images = {model: np.full((4, 2, 2, 3), value, dtype=np.uint8) for model, value in (("base", 10), ("ppd", 20))}

    def brightness(shown: Images, captions: Sequence[str]) -> NDArray[np.float64]:
        return np.array([image.mean() + len(caption) for image, caption in zip(shown, captions, strict=True)])

    metrics = mean_rewards({model: (wishes, pixels) for model, pixels in images.items()}, {"bright": brightness})
    assert metrics["reward.bright.base"] == 10 + 5.5
    assert metrics["reward.bright.ppd"] == 20 + 5.5
    assert (metrics["reward.bright.ppd.ci_low"], metrics["reward.bright.ppd.ci_high"]) == (25, 26)
