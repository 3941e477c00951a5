"""Damage that generated images have and renders have not: what reads them must have seen it."""

import torch
from torch import Tensor
from torch.nn import functional

from ppd.diffusion.model.codec import ImageCodec


@torch.no_grad()
def degrade(images: Tensor, codec: ImageCodec, random: torch.Generator) -> Tensor:
    """A third as they are, a third through the codec with noisy latents, a third blurred; noise on two thirds.

    images [B, 3, H, W] in [0, 1] -> the same, clamped. Latent noise has a standard deviation up to 0.4, pixel noise up
    to 0.06. Nothing here moves a factor: colours, sizes and patterns stay.
    """
    device = images.device
    fate = torch.randint(3, (len(images),), generator=random)
    coded, blurred = fate == 1, fate == 2
    latents = codec.encode(images[coded])
    strength = 0.4 * torch.rand(len(latents), 1, 1, 1, generator=random)
    latents += (strength * torch.randn(latents.shape, generator=random)).to(device)
    damaged = images.clone()
    damaged[coded] = codec.decode(latents)
    size = images.shape[-2:]
    small = functional.interpolate(images[blurred], scale_factor=0.625, mode="area")
    damaged[blurred] = functional.interpolate(small, size=size, mode="bilinear")
    strength = 0.06 * torch.rand(len(images), 1, 1, 1, generator=random) * (fate != 0)[:, None, None, None]
    damaged += (strength * torch.randn(images.shape, generator=random)).to(device)
    return damaged.clamp_(0, 1)
