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
from ppd.stickers.world import CONCEPTS, FACTORS, IMAGE_PX, STYLES


@dataclass(frozen=True)
class Reading:
    """What is seen in N images: concept [N, 32] and style [N, 4] as probabilities, factors [N, 5] about in [-1, 1]."""

    concept: NDArray[np.float64]
    style: NDArray[np.float64]
    factors: NDArray[np.float64]


class FactorReader(ModelMixin, ConfigMixin):  # type: ignore[misc]
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
        self.hidden = nn.Sequential(nn.Linear(widths[-1] * n_cells, 256), nn.SiLU())
        self.concept = nn.Linear(256, len(CONCEPTS))
        self.style = nn.Linear(256, len(STYLES))
        self.factors = nn.Linear(256, len(FACTORS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.hidden(self.features(2 * images - 1))
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


@torch.inference_mode()
def read(reader: FactorReader, images: Iterable[NDArray[np.uint8]], batch_size: int = 128) -> Reading:
    """Read images, each uint8 [64, 64, 3]; InputError for another size."""
    stacked = [np.asarray(image) for image in images]
    wrong = next((image.shape for image in stacked if image.shape != (IMAGE_PX, IMAGE_PX, 3)), None)
    if wrong is not None:
        raise InputError(f"the sticker reader reads images of {IMAGE_PX} x {IMAGE_PX} x 3, not {wrong}")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(stacked), batch_size):
        pixels = torch.from_numpy(np.stack(stacked[start : start + batch_size]))
        parts.append(reader(pixels.to(reader.device).permute(0, 3, 1, 2).float() / 255))
    concept, style, factors = (
        torch.cat(column).double().cpu() if parts else torch.zeros(0, n).double()
        for column, n in zip(
            zip(*parts, strict=True) if parts else ((), (), ()), (len(CONCEPTS), len(STYLES), len(FACTORS)), strict=True
        )
    )
    return Reading(concept.softmax(dim=1).numpy(), style.softmax(dim=1).numpy(), factors.numpy())
