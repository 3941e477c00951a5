"""Sampled images on disk, as `ppd.diffusion.sampling.run` leaves them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ppd.stored_tables import read_frame


def read_samples(file: Path) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """What `sample_images` wrote: the requests, and the images [N, H, W, 3] in the same order."""
    table = read_frame(file)
    images = [np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB")) for png in table.png]
    return table.drop(columns="png"), np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8)
