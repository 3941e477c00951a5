"""Between pixels and latents: a small autoencoder, the nano counterpart of Stable Cascade's EfficientNet."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class _ResBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))): [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(nn.functional.silu(x))
        return x + self.second(nn.functional.silu(hidden))


class ImageCodec(ModelMixin, ConfigMixin):
    """Images [B, 3, H, W] in [0, 1] <-> latents [B, C, H/4, W/4].

    Over the training data each channel of the latents has mean 0 and variance 1. As in Stable Cascade, they are the
    output of a BatchNorm without parameters: its running statistics are buffers, so they travel with the weights.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 8, width: int = 64, n_blocks: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            *(_ResBlock(width) for _ in range(n_blocks)),
            nn.SiLU(),
            nn.Conv2d(width, latent_channels, 1),
        )
        self.norm = nn.BatchNorm2d(latent_channels, affine=False)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            *(_ResBlock(width) for _ in range(n_blocks)),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, C, H/4, W/4]; H and W must be multiples of 4."""
        return self.norm(self.encoder(2 * images - 1))

    def decode(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, 4h, 4w], about in [0, 1]: not clamped, so that gradients pass."""
        return (self.decoder(latents) + 1) / 2

    def forward(self, images: Tensor, latent_noise: Tensor | None = None) -> Tensor:
        """Reconstruction; `latent_noise` [B, C, H/4, W/4] is added in between, which keeps the latents smooth."""
        latents = self.encode(images)
        return self.decode(latents if latent_noise is None else latents + latent_noise)


def psnr_db(images: Tensor, reconstructed: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for values in [0, 1]: [B, 3, H, W] twice -> [B]."""
    error = (images - reconstructed.clamp(0, 1)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error.clamp_min(1e-10))
