"""What every reward is: images and captions in, one number each out."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""uint8 [H, W, 3] each."""


class Scorer(Protocol):
    """Scores of N images, each with its own caption: [N]. More is better. An image's score depends on no other."""

    def __call__(self, images: Images, captions: Sequence[str]) -> NDArray[np.float64]: ...
