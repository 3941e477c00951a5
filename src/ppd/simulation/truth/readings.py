"""What the attribute classifier reads in sampled images, as one table that every measure starts from."""

from pathlib import Path

import pandas as pd

from ppd.diffusion.sampling.store import read_samples
from ppd.evaluation.tables import IMAGE_KEY, Pixels
from ppd.simulation.attribute_classifier import AttributeClassifier, read
from ppd.simulation.world import CONCEPTS, FEATURES, caption, features


def read_features(model: str, requests: pd.DataFrame, images: Pixels, classifier: AttributeClassifier) -> pd.DataFrame:
    """Features of each image, its style, and whether it still shows what its caption names; by `tables.IMAGE_KEY`.

    requests: `tables.SAMPLE` of each of `images` [N, 64, 64, 3]. Factors are clipped to the world's [-1, 1], so that no
    picture is worth more for being outside of it.
    """
    reading = read(classifier, images)
    concepts = {caption(concept): concept for concept in range(len(CONCEPTS))}
    named = requests.caption.map(concepts).to_numpy()
    values = features(reading.style, reading.factors.clip(-1, 1))
    table = pd.DataFrame(values, columns=list(FEATURES)).assign(
        model=model,
        user_id=requests.user_id.to_numpy(),
        caption=requests.caption.to_numpy(),
        seed=requests.seed.to_numpy(),
        concept_right=reading.concept.argmax(axis=1) == named,
        style=reading.style.argmax(axis=1),
    )
    return table.set_index(IMAGE_KEY)


def read_features_of_file(model: str, file: Path, classifier: AttributeClassifier) -> pd.DataFrame:
    """The same of the images in a file of samples."""
    return read_features(model, *read_samples(file), classifier)
