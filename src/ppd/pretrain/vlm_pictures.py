"""First half of the nano VLM: teach the vision tower and the projector to see, with direct heads; then freeze both."""

import io
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from ppd.pretrain.loop import autocast
from ppd.pretrain.pictures import to_tensor
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import CONCEPTS, FACTORS, N_FEATURES, STYLES, Scenes, sample_scenes, scene_features

WEBP_QUALITY = (60, 96)


class Sight(nn.Module):
    """Vision tower and projector of a LLaVA-OneVision with heads for what a scene shows; the heads are not kept."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.layer = model.config.vision_feature_layer
        width = model.config.text_config.hidden_size
        self.style = nn.Linear(width, len(STYLES))
        self.factors = nn.Linear(width, len(FACTORS))
        self.concept = nn.Linear(width, len(CONCEPTS))

    def image_tokens(self, images: Tensor) -> Tensor:
        """What the language model is given: images [N, 3, H, W] in [0, 1] -> [N, patches, width].

        LLaVA reads a hidden state of the tower, before its final norm: not `last_hidden_state`.
        """
        seen = self.tower(pixel_values=images * 2 - 1, output_hidden_states=True)
        return self.projector(seen.hidden_states[self.layer])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of style and concept, and factors scaled to unit variance."""
        seen = self.image_tokens(images).mean(dim=1)
        return self.style(seen), self.factors(seen), self.concept(seen)


class RenderCache:
    """Rendered scenes as bytes in memory, half of them having gone through WebP as the pictures of a log have."""

    def __init__(self, atlas: Atlas, rng: np.random.Generator, n: int) -> None:
        self.scenes: Scenes = sample_scenes(rng, n, concepts=np.sort(rng.integers(len(CONCEPTS), size=n)))
        self.pixels: NDArray[np.uint8] = render(atlas, self.scenes)
        for i in np.flatnonzero(rng.random(n) < 0.5):
            self.pixels[i] = _webp(self.pixels[i], int(rng.integers(*WEBP_QUALITY)))

    def __len__(self) -> int:
        return len(self.scenes)


def _webp(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=0)
    return np.asarray(Image.open(buffer).convert("RGB"))


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise on some of the images, so that decoded latents are seen as well: [N, 3, H, W] in [0, 1]."""
    strength, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    touched, noisy = (torch.rand(2, len(images), 1, 1, 1, generator=generator) < 0.4).float()
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = images + 0.8 * strength * touched * (blurred - images)
    return images + 0.03 * noise * noisy * torch.randn(images.shape, generator=generator)


def sight_loss(
    sight: Sight, render_cache: RenderCache, seed: int, step: int, batch_size: int, *, bf16: bool, device: torch.device
) -> Tensor:
    """Cross-entropy of style and concept, squared error of the factors, on one batch drawn from (seed, step)."""
    rng = seeds.rng("pretrain", "vlm", "sight", seed, step)
    rows = rng.integers(len(render_cache), size=batch_size)
    images = roughen(to_tensor(render_cache.pixels[rows]), torch.Generator().manual_seed(int(rng.integers(2**62))))
    scenes = render_cache.scenes[rows]
    with autocast(device, bf16):
        style, factors, concept = (head.cpu() for head in sight(images.to(device)))
    truth = torch.from_numpy(scene_features(scenes)[:, len(STYLES) :]).float()
    return (
        F.cross_entropy(style.float(), torch.from_numpy(scenes.style))
        + 2 * F.mse_loss(factors.float(), truth)
        + 0.3 * F.cross_entropy(concept.float(), torch.from_numpy(scenes.concept))
    )


@torch.no_grad()
def sight_quality(sight: Sight, render_cache: RenderCache, device: torch.device) -> dict[str, float]:
    """Accuracy of style and concept, R² of each factor, on an album."""
    chunks = (sight(images.to(device)) for images in _chunks(render_cache))
    style, factors, concept = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
    truth = torch.from_numpy(scene_features(render_cache.scenes)[:, len(STYLES) : N_FEATURES]).float()
    r2 = 1 - (factors - truth).square().mean(dim=0) / truth.var(dim=0)
    quality = {f"r2_{factor.name}": round(float(value), 4) for factor, value in zip(FACTORS, r2, strict=True)}
    quality["style_accuracy"] = round(
        float((style.argmax(1) == torch.from_numpy(render_cache.scenes.style)).float().mean()), 4
    )
    concepts = torch.from_numpy(render_cache.scenes.concept)
    quality["concept_accuracy"] = round(float((concept.argmax(1) == concepts).float().mean()), 4)
    return quality


@torch.no_grad()
def see(sight: Sight, render_cache: RenderCache, device: torch.device) -> Tensor:
    """The projector's outputs for an album: [N, patches, width]; the language model trains on these, not on pixels."""
    return torch.cat([sight.image_tokens(images.to(device)).cpu() for images in _chunks(render_cache)])


def _chunks(render_cache: RenderCache, size: int = 512) -> Iterator[Tensor]:
    return (to_tensor(render_cache.pixels[i : i + size]) for i in range(0, len(render_cache), size))
