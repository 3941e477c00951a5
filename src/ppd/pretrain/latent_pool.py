"""What a prior is trained on: the latents of fresh renders, a pool at a time, and which of them a step sees."""

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppd.diffusion.model.codec import PATCH_PX, ImageCodec
from ppd.diffusion.training.timesteps import stratified
from ppd.pretrain import renderer
from ppd.pretrain.ahead import ahead, side_processes
from ppd.pretrain.pictures import to_tensor
from ppd.seeding import generator
from ppd.simulation import seeds
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import CONCEPTS, IMAGE_PX, Scenes, caption, sample_scenes

CAPTIONS: tuple[str, ...] = (*(caption(concept) for concept in range(len(CONCEPTS))), "")
EMPTY = len(CONCEPTS)
RENDERED_AT_ONCE = 256


class LatentPool:
    """Latents of `size` renders on the device; after `steps_each` steps they make room for new ones, from the seed.

    Beside a GPU, other processes render the next pool while this one is in use.
    """

    def __init__(
        self,
        atlas: Atlas,
        codec: ImageCodec,
        device: torch.device,
        *,
        name: str,
        seed: int,
        size: int,
        steps_each: int,
        steps: int,
    ) -> None:
        self.atlas, self.codec, self.device = atlas, codec, device
        self.name, self.seed, self.size, self.steps_each = name, seed, size, steps_each
        self.last_pool = (steps - 1) // steps_each
        self.index = -1
        self._renderers = side_processes(device, renderer.begin, atlas)
        self._next: list[Future[NDArray[np.uint8]]] = []

    def rows(self, step: int, batch_size: int, empty_caption_share: float) -> tuple[Tensor, Tensor]:
        """Which renders of its pool a step sees, [B], and whose caption is withheld, [B] bool."""
        rng = seeds.rng("pretrain", self.name, self.seed, "batch", step)
        rows = rng.integers(self.size, size=batch_size)
        return torch.from_numpy(rows), torch.from_numpy(rng.random(batch_size) < empty_caption_share)

    def batch(self, step: int, rows: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 [B, C, h, w] in fp32 and indices of `CAPTIONS` [B], for what `rows` said."""
        if step // self.steps_each != self.index:
            self._fill(step // self.steps_each)
        return self.latents[rows].float(), torch.where(empty, EMPTY, self.concepts[rows])

    @torch.inference_mode()
    def _fill(self, index: int) -> None:
        if self._renderers is None:
            images = (render(self.atlas, part) for part in self._parts(index))
        else:
            rendered = self._next if index == self.index + 1 and self._next else self._render_elsewhere(index)
            images = (part.result() for part in rendered)
        parts = [self.codec.encode(to_tensor(part).to(self.device)).half() for part in images]
        self.latents = torch.cat(parts)
        self.concepts = torch.from_numpy(self._scenes(index).concept).to(self.device)
        self.index = index
        if self._renderers is not None:
            self._next = self._render_elsewhere(index + 1) if index < self.last_pool else []

    def _render_elsewhere(self, index: int) -> list[Future[NDArray[np.uint8]]]:
        assert self._renderers is not None
        return [self._renderers.submit(renderer.render_scenes, part) for part in self._parts(index)]

    def _parts(self, index: int) -> list[Scenes]:
        scenes = self._scenes(index)
        return [scenes[start : start + RENDERED_AT_ONCE] for start in range(0, len(scenes), RENDERED_AT_ONCE)]

    def _scenes(self, index: int) -> Scenes:
        return sample_scenes(seeds.rng("pretrain", self.name, self.seed, "pool", index), self.size)


def training_draws(
    pool: LatentPool, batch_size: int, empty_caption_share: float, latent_channels: int
) -> Callable[[int], tuple[Tensor, ...]]:
    """What a step draws, on the pool's device: rows and withheld captions (`LatentPool.rows`), noise level, noise.

    Noise levels [B] are uniform in (0, 1], stratified; noise is [B, C, h, w].
    """
    px = IMAGE_PX // PATCH_PX

    def draw(step: int) -> tuple[Tensor, ...]:
        random = generator(pool.name, pool.seed, step)
        level = 1 - stratified(batch_size, random)
        noise = torch.randn(batch_size, latent_channels, px, px, generator=random)
        return *pool.rows(step, batch_size, empty_caption_share), level, noise

    return ahead(draw, pool.device)
