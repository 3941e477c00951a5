from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.evaluation.metrics import reward_metrics
from ppd.rewards.scorer import Images


def test_rewards_are_each_models_own_with_an_interval_over_captions() -> None:
    requests = pd.DataFrame({"caption": ["a fox", "a fox", "an owl", "an owl"]})
    images = {model: np.full((4, 2, 2, 3), value, dtype=np.uint8) for model, value in (("base", 10), ("ppd", 20))}

    def brightness(shown: Images, captions: Sequence[str]) -> NDArray[np.float64]:
        return np.array([image.mean() + len(caption) for image, caption in zip(shown, captions, strict=True)])

    samples = {model: (requests, pixels) for model, pixels in images.items()}
    scores = {("bright", model): brightness(pixels, requests.caption.tolist()) for model, pixels in images.items()}
    metrics = reward_metrics(samples, scores)
    assert metrics["reward.bright.base"] == 10 + 5.5
    assert metrics["reward.bright.ppd"] == 20 + 5.5
    assert (metrics["reward.bright.ppd.ci_low"], metrics["reward.bright.ppd.ci_high"]) == (25, 26)
