import numpy as np
import pandas as pd
import pytest
import torch

import ppd.simulation.truth.readings as module
from ppd.simulation.attribute_classifier import AttributeClassifier, Reading
from ppd.simulation.world import CONCEPTS, FEATURES, STYLES, caption, features


def test_a_picture_outside_the_world_is_worth_no_more_than_its_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = np.array([[4.0, 0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5, 0.5]])
    concept, style = np.eye(len(CONCEPTS))[[3, 4]], np.eye(len(STYLES))[[1, 1]]
    monkeypatch.setattr(module, "read", lambda classifier, images: Reading(concept, style, factors))
    requests = pd.DataFrame({"user_id": ["a", "a"], "caption": [caption(3), caption(3)], "seed": [0, 1]})
    table = module.read_features("ppd", requests, np.zeros((2, 64, 64, 3), np.uint8), AttributeClassifier())
    np.testing.assert_array_equal(table[list(FEATURES)].to_numpy()[0], table[list(FEATURES)].to_numpy()[1])
    np.testing.assert_allclose(table[list(FEATURES)].to_numpy(), features(style, factors.clip(-1, 1)))
    assert table.concept_right.tolist() == [True, False]
    assert table.loc["ppd", "a", caption(3), 1]["lightness"] > 0


def test_it_reads_every_image_under_its_own_key() -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier(width=8).eval()
    images = np.random.default_rng(0).integers(0, 255, size=(3, 64, 64, 3), dtype=np.uint8)
    requests = pd.DataFrame({"user_id": ["a", "b", ""], "caption": [caption(i) for i in range(3)], "seed": [5, 6, 7]})
    table = module.read_features("base", requests, images, classifier)
    alone = module.read_features("base", requests.iloc[[1]], images[[1]], classifier)
    np.testing.assert_allclose(
        table.loc["base", "b", caption(1), 6][list(FEATURES)].to_numpy(float),
        alone.to_numpy()[0, :9].astype(float),
        atol=1e-4,
    )
