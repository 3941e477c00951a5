"""The image codec of the nano Stable Cascade: an autoencoder of stickers, 64 px <-> 8 x 16 x 16 latents.

About 2 minutes on one core for the defaults; expect a PSNR of 31.8 dB on held-out renders
"""

from pathlib import Path

import torch
from torch import Tensor

from ppd.diffusion.model.codec import ImageCodec, psnr_db
from ppd.files import atomic_path
from ppd.pretrain.loop import Curve, LoopSettings, autocast, fit, save_curve
from ppd.pretrain.pictures import render_tensor
from ppd.seeding import generator
from ppd.settings import Component
from ppd.simulation import seeds
from ppd.simulation.render import Atlas
from ppd.simulation.world import Scenes, sample_scenes


class CodecSettings(Component):
    """Shape and training of the codec."""

    latent_channels: int = 8
    width: int = 64
    n_blocks: int = 1
    latent_noise: float = 0.06
    """SD of the noise added to the latents: the decoder then forgives the prior's errors."""
    component_images: int = 2048
    """Renders that the linear encoder is fitted to."""
    loop: LoopSettings = LoopSettings(
        steps=1500, batch_size=32, learning_rate=2e-3, weight_decay=0.0, decay_share=0.5, ema_decay=0.99
    )


def train_codec(atlas: Atlas, settings: CodecSettings, out: Path, state_file: Path, device: torch.device) -> ImageCodec:
    """Fit the linear encoder, then train the decoder on fresh renders, loss = MSE + 0.1·L1.

    Writes the codec with its loss curve to `out` and returns it.
    """
    loop = settings.loop
    torch.manual_seed(loop.seed)
    codec = ImageCodec(settings.latent_channels, settings.width, settings.n_blocks)

    def scenes(n: int, *key: str | int) -> Scenes:
        return sample_scenes(seeds.rng("pretrain", "codec", loop.seed, *key), n)

    codec.set_components(render_tensor(atlas, scenes(settings.component_images, "components")))
    codec.to(device=device, memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        images = render_tensor(atlas, scenes(loop.batch_size, step)).to(device)
        latents = codec.encode(images)
        noise = torch.randn(latents.shape, generator=generator("codec", loop.seed, step)).to(device)
        with autocast(device, loop.bf16):
            reconstructed = codec.decode(latents + settings.latent_noise * noise)
        error = reconstructed.float() - images
        return error.square().mean() + 0.1 * error.abs().mean()

    def publish(curve: Curve) -> None:
        with atomic_path(out) as fresh:
            codec.save_pretrained(fresh)
            save_curve(curve, fresh, title="codec: MSE + 0.1·L1")

    fit(codec, loss_at, loop, state_file, publish, title="codec")
    return ImageCodec.from_pretrained(out).eval()


@torch.inference_mode()
def heldout_psnr_db(codec: ImageCodec, atlas: Atlas, n: int = 512) -> Tensor:
    """PSNR of `n` renders of the evaluation stream, in dB: [n]."""
    images = render_tensor(atlas, sample_scenes(seeds.rng("evaluation", "codec"), n))
    return torch.cat([psnr_db(part, codec(part)) for part in images.split(64)])
