"""Rendered scenes as tensors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppd.simulation.render import Atlas, render
from ppd.simulation.world import Scenes


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Bytes [N, H, W, 3] -> [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """[N, 3, H, W] in [0, 1], clamped -> bytes [N, H, W, 3]."""
    return images.detach().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def render_tensor(atlas: Atlas, scenes: Scenes) -> Tensor:
    """Render scenes: [N, 3, 64, 64] in [0, 1]."""
    return to_tensor(render(atlas, scenes))
