"""Between pixels and latents: a small autoencoder, the nano counterpart of Stable Cascade's EfficientNet."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.fingerprint import fingerprint

PATCH_PX = 4


class _ResBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))): [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(nn.functional.silu(x))
        return x + self.second(nn.functional.silu(hidden))


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all its parameters 0, so that it starts by adding nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ImageCodec(ModelMixin, ConfigMixin):
    """Images [B, 3, H, W] in [0, 1] <-> latents [B, C, H/4, W/4] of mean 0, and variance 1 over all channels.

    The encoder is linear: the first principal components of 4 x 4 patches (`set_components`), so latents are as smooth
    as images are, and a prior can build them from coarse to fine. (An encoder trained freely for the same error packs
    its latents to white noise, which a prior learns several times slower.) The decoder is a small CNN on top of the
    linear reconstruction. Statistics and components are the weights of `analysis` and `synthesis`.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 8, width: int = 64, n_blocks: int = 1) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, latent_channels, PATCH_PX, stride=PATCH_PX).requires_grad_(False)
        self.synthesis = nn.ConvTranspose2d(latent_channels, 3, PATCH_PX, stride=PATCH_PX).requires_grad_(False)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            *(_ResBlock(width) for _ in range(n_blocks)),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1),
            nn.SiLU(),
            _silent(nn.Conv2d(width // 2, 12, 3, padding=1)),
            nn.PixelShuffle(2),
        )

    @property
    def encoder_fingerprint(self) -> str:
        return fingerprint(self.analysis)

    @property
    def pixels_per_latent(self) -> int:
        return PATCH_PX

    @torch.no_grad()
    def set_components(self, images: Tensor) -> None:
        """Fit encoder and linear reconstruction to images [N, 3, H, W].

        A component of SD s is scaled to be proportional to √s: half-way between PCA and whitening, so
        that fine detail is neither lost under the prior's errors nor as loud as the layout.
        """
        channels = self.config.latent_channels
        patches = nn.functional.pixel_unshuffle(images, PATCH_PX).permute(0, 2, 3, 1).flatten(0, 2)  # [n, 3·4·4]
        mean = patches.mean(dim=0)
        centred = patches - mean
        variance, components = torch.linalg.eigh((centred.T @ centred / len(patches)).double())
        components = components.flip(1)[:, :channels].float()  # [48, C]
        spread = variance.flip(0)[:channels].float().sqrt()
        scale = spread.sqrt() / spread.mean().sqrt() / spread  # latent spread: √s, of mean square 1
        to_latents = (components * scale).T  # [C, 48]
        whole = nn.functional.pixel_shuffle(mean[None, :, None, None], PATCH_PX)
        self.analysis.load_state_dict(
            {"weight": to_latents.view_as(self.analysis.weight), "bias": -to_latents @ mean},
        )
        self.synthesis.load_state_dict(
            {"weight": (components / scale).T.view_as(self.synthesis.weight), "bias": whole.mean(dim=(0, 2, 3))},
        )

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, C, H/4, W/4]; H and W must be multiples of 4."""
        return self.analysis(images)

    def decode(self, latents: Tensor, text: Text | None = None, randoms: Sequence[torch.Generator] = ()) -> Tensor:
        """[B, C, h, w] -> [B, 3, 4h, 4w], about in [0, 1]: not clamped, so that gradients pass.

        Captions and generators are for decoders that draw (`ppd.diffusion.model.backbone.Codec`); this one is a
        function.
        """
        return self.synthesis(latents) + self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        """Images through the codec: [B, 3, H, W] -> the same."""
        return self.decode(self.encode(images))


def psnr_db(images: Tensor, reconstructed: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for values in [0, 1]: [B, 3, H, W] twice -> [B]."""
    error = (images - reconstructed.clamp(0, 1)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(error.clamp_min(1e-10))
