"""Stable Cascade's own codec: EfficientNetV2-S encodes, Stage B (a diffusion model) and Stage A (a VQ-GAN) decode.

Images are 32 pixels a latent when encoded (768 px give 24x24), about 42.7 when decoded (24x24 give 1024 px): so the
model was trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.efficientnet import FACTOR, WEIGHTS, EfficientNetEncoder
from ppd.diffusion.model.fingerprint import fingerprint

STEPS = 10
"""Of Stage B; more refine little (the pipeline's default). It is run without guidance, as published."""
LATENT_SCALE = 10.67
"""Side of Stage A's latents over that of the prior's."""


class CascadeCodec:
    """Images [B, 3, H, W] in [0, 1] -> latents [B, 16, H/32, W/32]; and back, as a draw by Stage B.

    Each part moves to a device when it is first needed there: whoever only encodes holds no decoder, and training
    holds neither.
    """

    def __init__(
        self,
        encoder: EfficientNetEncoder,
        decoder: StableCascadeUNet,
        vqgan: PaellaVQModel,
        scheduler: DDPMWuerstchenScheduler,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.decoder = decoder.eval().requires_grad_(False)
        self.vqgan = vqgan.eval().requires_grad_(False)
        self.scheduler = scheduler

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds Stable Cascade's codec."""
        return (Path(folder) / WEIGHTS).is_file()

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load `effnet_encoder.safetensors`, `decoder/`, `vqgan/` and `scheduler/` of stabilityai/stable-cascade.

        dtype: of Stage B; the two small models stay in fp32.
        """
        return cls(
            EfficientNetEncoder.from_pretrained(folder),
            StableCascadeUNet.from_pretrained(folder, subfolder="decoder", torch_dtype=dtype, use_safetensors=True),
            PaellaVQModel.from_pretrained(folder, subfolder="vqgan", torch_dtype=torch.float32, use_safetensors=True),
            DDPMWuerstchenScheduler.from_pretrained(folder, subfolder="scheduler"),
        )

    @property
    def encoder_fingerprint(self) -> str:
        return fingerprint(self.encoder)

    @property
    def pixels_per_latent(self) -> int:
        return FACTOR

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.encoder.to(images.device)(images)

    @torch.no_grad()
    def decode(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor:
        """[B, 16, h, w] -> [B, 3, 1024·h/24, 1024·w/24]; what Stage B draws depends on each row's own generator."""
        device, n = latents.device, len(latents)
        decoder, vqgan, generators = self.decoder.to(device), self.vqgan.to(device), list(randoms)
        size = (int(side * LATENT_SCALE) for side in latents.shape[2:])
        x = randn_tensor((n, decoder.config.in_channels, *size), generator=generators, device=device)
        self.scheduler.set_timesteps(STEPS, device=device)
        for time in self.scheduler.timesteps[:-1]:
            t = time.expand(n)  # fp32, whatever the network's dtype: see `stable_cascade`
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=decoder.dtype == torch.bfloat16):
                (noise,) = decoder(
                    sample=x,
                    timestep_ratio=t,
                    clip_text_pooled=text.vectors[:, None],
                    effnet=latents,
                    return_dict=False,
                )
            x = self.scheduler.step(noise.float(), t, x, generator=generators).prev_sample
        return vqgan.decode(vqgan.config.scale_factor * x).sample
