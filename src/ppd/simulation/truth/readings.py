"""What the reader sees in generated images, as one table that every measure starts from."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppd.simulation.attribute_classifier import AttributeClassifier, read
from ppd.simulation.truth.utility import FEATURES, IMAGE_KEY
from ppd.simulation.world import CONCEPTS, caption, features

Pixels = NDArray[np.uint8]


def read_features(model: str, wishes: pd.DataFrame, images: Pixels, reader: AttributeClassifier) -> pd.DataFrame:
    """Features of each image, and whether it still shows what its caption names; indexed by `IMAGE_KEY`.

    wishes: user_id, caption, seed of each of `images` [N, 64, 64, 3]. Factors are clipped to the world's [-1, 1], so
    that no picture is worth more for being outside of it.
    """
    reading = read(reader, images)
    looks = features(reading.style, reading.factors.clip(-1, 1))
    named = {caption(concept): concept for concept in range(len(CONCEPTS))}
    wanted = wishes.caption.map(named).to_numpy()
    table = pd.DataFrame(looks, columns=list(FEATURES)).assign(
        model=model,
        user_id=wishes.user_id.to_numpy(),
        caption=wishes.caption.to_numpy(),
        seed=wishes.seed.to_numpy(),
        concept_right=reading.concept.argmax(axis=1) == wanted,
        style=reading.style.argmax(axis=1),
    )
    return table.set_index(IMAGE_KEY)
