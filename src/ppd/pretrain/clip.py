"""The nano CLIP: images and captions of stickers in one space; its cosine is the nano counterpart of the CLIP score.

about 8 minutes on one core for the defaults; expect the right caption among 32 for .99 of held-out renders
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from ppd.diffusion.model.codec import ImageCodec
from ppd.files import atomic_path
from ppd.pretrain.degrade import degrade
from ppd.pretrain.loop import Curve, LoopSettings, autocast, fit, save_curve
from ppd.pretrain.pictures import render_tensor
from ppd.pretrain.text import caption_tokenizer, text_config, tokenize
from ppd.seeding import generator
from ppd.settings import Component
from ppd.simulation import seeds
from ppd.simulation.render import Atlas
from ppd.simulation.world import CONCEPTS, IMAGE_PX, caption, sample_scenes

CAPTIONS: tuple[str, ...] = tuple(caption(concept) for concept in range(len(CONCEPTS)))


class ClipSettings(Component):
    """Shape and training of the nano CLIP. A batch holds every concept `images_per_concept` times."""

    vision_width: int = 128
    vision_layers: int = 4
    patch_px: int = 8
    text_width: int = 64
    text_layers: int = 2
    images_per_concept: int = 2
    loop: LoopSettings = LoopSettings(
        steps=1200, batch_size=64, learning_rate=1e-3, weight_decay=0.05, decay_share=0.5, ema_decay=0.995
    )


def train_clip(
    atlas: Atlas, codec: ImageCodec, settings: ClipSettings, out: Path, state_file: Path, device: torch.device
) -> None:
    """Train contrastively on fresh renders with their captions; writes model, tokenizer and image processor to `out`.

    InfoNCE (Radford et al. 2021) among the 32 concepts, one image of each at a time: no caption occurs twice, so every
    negative is one.
    """
    loop = settings.loop
    tokenizer = caption_tokenizer(CAPTIONS)
    torch.manual_seed(loop.seed)
    config = CLIPConfig(
        text_config=text_config(tokenizer, width=settings.text_width, n_layers=settings.text_layers),
        vision_config={
            "hidden_size": settings.vision_width,
            "intermediate_size": 2 * settings.vision_width,
            "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.vision_width // 32,
            "image_size": IMAGE_PX,
            "patch_size": settings.patch_px,
        },
        projection_dim=settings.text_width,
    )
    clip = CLIPModel(config).to(device)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_PX}, crop_size={"height": IMAGE_PX, "width": IMAGE_PX}
    )
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (processor.image_mean, processor.image_std))
    tokens = tokenize(tokenizer, CAPTIONS).to(device)
    codec = codec.to(device).eval()
    k = settings.images_per_concept
    target = torch.arange(len(CONCEPTS), device=device).expand(k, -1)  # [k, 32]

    def loss_at(step: int) -> Tensor:
        rng = seeds.rng("pretrain", "clip", loop.seed, step)
        scenes = sample_scenes(rng, k * len(CONCEPTS), np.tile(np.arange(len(CONCEPTS)), k))
        images = degrade(render_tensor(atlas, scenes).to(device), codec, generator("clip", loop.seed, step))
        with autocast(device, loop.bf16):
            seen = clip(**tokens, pixel_values=(images - mean) / std).logits_per_image
        logits = seen.float().view(k, len(CONCEPTS), len(CONCEPTS))  # [k, image, caption]
        by_image = functional.cross_entropy(logits.transpose(1, 2), target)
        by_caption = functional.cross_entropy(logits, target)
        return (by_image + by_caption) / 2

    def publish(curve: Curve) -> None:
        with atomic_path(out) as fresh:
            clip.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            processor.save_pretrained(fresh)
            (fresh / "settings.json").write_text(settings.model_dump_json(indent=2))
            save_curve(curve, fresh, title="nano CLIP: InfoNCE among the 32 concepts")

    fit(clip, loss_at, loop, state_file, publish, title="clip")
