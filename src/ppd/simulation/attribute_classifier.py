"""Reading what a picture shows: concept, drawing style and the five free factors. Used by evaluation only.

For rendered scenes these are known exactly; for generated images the reader stands in, and its own accuracy (its model
card) bounds what any figure built on it can say.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn

from ppd.errors import InputError
from ppd.simulation.world import CONCEPTS, FACTORS, IMAGE_PX, STYLES

FEATURE_DIM = 256


@dataclass(frozen=True)
class Reading:
    """What is seen in N images: concept [N, 32] and style [N, 4] as probabilities, factors [N, 5] about in [-1, 1]."""

    concept: NDArray[np.float64]
    style: NDArray[np.float64]
    factors: NDArray[np.float64]


class AttributeClassifier(ModelMixin, ConfigMixin):
    """A small residual CNN. Images [B, 3, 64, 64] in [0, 1] -> logits [B, 32], logits [B, 4], factors [B, 5]."""

    @register_to_config
    def __init__(self, width: int = 48, n_blocks: int = 1) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1)]  # 32 x 32
        for narrow, wide in zip((width, *widths[:-1]), widths, strict=True):  # 16, 8 and 4 px
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1)]
            layers += [_NormedResBlock(wide) for _ in range(n_blocks)]
        self.features = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Flatten())
        n_cells = (IMAGE_PX // 16) ** 2
        self.hidden = nn.Sequential(nn.Linear(widths[-1] * n_cells, FEATURE_DIM), nn.SiLU())
        self.concept = nn.Linear(FEATURE_DIM, len(CONCEPTS))
        self.style = nn.Linear(FEATURE_DIM, len(STYLES))
        self.factors = nn.Linear(FEATURE_DIM, len(FACTORS))

    def embed(self, images: Tensor) -> Tensor:
        """What the three answers are read from: [B, 3, 64, 64] -> [B, 256]."""
        return self.hidden(self.features(2 * images - 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.embed(images)
        return self.concept(hidden), self.style(hidden), self.factors(hidden)


class _NormedResBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))): [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(nn.functional.silu(self.norm(x)))
        return x + self.second(nn.functional.silu(hidden))


def read(reader: AttributeClassifier, images: Iterable[NDArray[np.uint8]], batch_size: int = 128) -> Reading:
    """Read images, each uint8 [64, 64, 3]; InputError for another size."""
    hidden = embed(reader, images, batch_size)
    with torch.inference_mode():
        on_device = hidden.to(reader.device)
        concept, style = reader.concept(on_device).softmax(dim=1), reader.style(on_device).softmax(dim=1)
        factors = reader.factors(on_device)
    return Reading(*(part.cpu().double().numpy() for part in (concept, style, factors)))


@torch.inference_mode()
def embed(reader: AttributeClassifier, images: Iterable[NDArray[np.uint8]], batch_size: int = 128) -> Tensor:
    """The features that the reader reads from, [N, 256] on the CPU: for measures of how real images look."""
    stacked = [np.asarray(image) for image in images]
    wrong = next((image.shape for image in stacked if image.shape != (IMAGE_PX, IMAGE_PX, 3)), None)
    if wrong is not None:
        raise InputError(f"the sticker reader reads images of {IMAGE_PX} x {IMAGE_PX} x 3, not {wrong}")
    parts = [torch.zeros(0, FEATURE_DIM)]
    for start in range(0, len(stacked), batch_size):
        pixels = torch.from_numpy(np.stack(stacked[start : start + batch_size]))
        parts.append(reader.embed(pixels.to(reader.device).permute(0, 3, 1, 2).float() / 255).cpu())
    return torch.cat(parts)
