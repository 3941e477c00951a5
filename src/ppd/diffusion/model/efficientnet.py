"""The image encoder of Stable Cascade: EfficientNetV2-S without its classifier, then a projection to 16 channels.

diffusers has no class for it. Parameters are named as in the published `effnet_encoder.safetensors`, whose backbone is
torchvision's (tests hold the names and shapes), so that file loads strictly. Architecture: arXiv 2104.00298, table 4.
"""

from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ppd.errors import InputError

WEIGHTS = "effnet_encoder.safetensors"
LATENT_CHANNELS = 16
FACTOR = 32
"""Pixels a latent, along each side."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]
_BACKBONE_EPS = 1e-3

# (fused?, expansion, stride, channels in, channels out, blocks); a fused block has no squeeze-and-excitation.
_STAGES = (
    (True, 1, 1, 24, 24, 2),
    (True, 4, 2, 24, 48, 4),
    (True, 4, 2, 48, 64, 4),
    (False, 4, 2, 64, 128, 6),
    (False, 6, 1, 128, 160, 9),
    (False, 6, 2, 160, 256, 15),
)


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, *, active: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, where `active`, SiLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(c_out, eps=_BACKBONE_EPS)
    return nn.Sequential(conv, norm, nn.SiLU()) if active else nn.Sequential(conv, norm)


class _SqueezeExcitation(nn.Module):
    """Scales each channel by what all of the image says: [B, C, h, w] -> the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.fc1(nn.functional.adaptive_avg_pool2d(x, 1)))
        return torch.sigmoid(self.fc2(hidden)) * x


class _Block(nn.Module):
    """An inverted bottleneck, with a residual connection where its input and output have one shape."""

    def __init__(self, fused: bool, expansion: int, stride: int, c_in: int, c_out: int) -> None:
        super().__init__()
        wide = c_in * expansion
        if expansion == 1:
            layers: list[nn.Module] = [_conv(c_in, c_out, 3, stride)]
        elif fused:
            layers = [_conv(c_in, wide, 3, stride), _conv(wide, c_out, 1, active=False)]
        else:
            layers = [
                _conv(c_in, wide, 1),
                _conv(wide, wide, 3, stride, groups=wide),
                _SqueezeExcitation(wide, c_in // 4),
                _conv(wide, c_out, 1, active=False),
            ]
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.is_residual else self.block(x)


def _stage(fused: bool, expansion: int, stride: int, c_in: int, c_out: int, n_blocks: int) -> nn.Sequential:
    first = _Block(fused, expansion, stride, c_in, c_out)
    return nn.Sequential(first, *(_Block(fused, expansion, 1, c_out, c_out) for _ in range(n_blocks - 1)))


class EfficientNetEncoder(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> latents [B, 16, H/32, W/32], each channel of mean 0 and variance 1.

    Its batch norms must use their stored statistics: keep it in eval mode.
    """

    def __init__(self) -> None:
        super().__init__()
        stages = [_stage(*stage) for stage in _STAGES]
        self.backbone = nn.Sequential(_conv(3, 24, 3, stride=2), *stages, _conv(256, 1280, 1))
        self.mapper = nn.Sequential(
            nn.Conv2d(1280, LATENT_CHANNELS, 1, bias=False), nn.BatchNorm2d(LATENT_CHANNELS, affine=False)
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load `effnet_encoder.safetensors` of `folder`: every tensor of the file, and no other.

        Raises InputError where names or shapes differ, or the file cannot be read.
        """
        file = Path(folder) / WEIGHTS
        with torch.device("meta"):
            encoder = cls()
        try:
            encoder.load_state_dict(load_file(file), strict=True, assign=True)
        except (FileNotFoundError, SafetensorError, RuntimeError) as error:
            raise InputError(f"not the image encoder of Stable Cascade: {error}", file=file) from error
        return encoder.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = images.new_tensor(_MEAN)[:, None, None], images.new_tensor(_STD)[:, None, None]
        return self.mapper(self.backbone((images - mean) / std))
