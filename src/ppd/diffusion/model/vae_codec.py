"""The codec of latent diffusion: diffusers' AutoencoderKL, in fp32 (SDXL's overflows in fp16)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.fingerprint import fingerprint
from ppd.errors import InputError


class VaeCodec:
    """Images [B, 3, H, W] in [0, 1] <-> latents [B, C, H/f, W/f], scaled and shifted as its config says.

    An image's latent is the mean of its posterior: the same whenever it is encoded. The model moves to a device when it
    is first needed there.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        if vae.config.latents_mean is not None or vae.config.latents_std is not None:
            raise InputError("an AutoencoderKL with latents_mean or latents_std; only scaling_factor is known")
        self.vae = vae.eval().requires_grad_(False)
        self.scale: float = vae.config.scaling_factor
        self.shift: float = vae.config.shift_factor or 0.0

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> Self:
        """Load `vae/` of a folder (or hub id) in the hub's layout. Raises InputError where there is none."""
        try:
            vae = AutoencoderKL.from_pretrained(
                folder, subfolder="vae", revision=revision, torch_dtype=torch.float32, use_safetensors=True
            )
        except OSError as error:
            raise InputError(f"no image codec: {error}", file=f"{folder}/vae", fix="Copy the whole model") from error
        return cls(vae)

    @property
    def encoder_fingerprint(self) -> str:
        parts = {"encoder": self.vae.encoder, "quant_conv": self.vae.quant_conv}
        return fingerprint(torch.nn.ModuleDict({name: part for name, part in parts.items() if part is not None}))

    @property
    def pixels_per_latent(self) -> int:
        """f, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        posterior = self.vae.to(images.device).encode(2 * images - 1).latent_dist
        return (posterior.mode() - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor:
        """[B, C, h, w] -> [B, 3, f·h, f·w], about in [0, 1]; captions and generators are for decoders that draw."""
        image = self.vae.to(latents.device).decode(latents / self.scale + self.shift).sample
        return image * 0.5 + 0.5
