"""Images as an encoder takes them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size as [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def resized(image: Image.Image, px: int) -> Image.Image:
    """The centred square of an image at `px` x `px`: what a backbone of that size was trained on."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == px else square.resize((px, px), Image.Resampling.LANCZOS)
