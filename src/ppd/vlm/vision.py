"""What the language model gets of images: decoded and shrunk on threads, seen by the vision tower in few forwards."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ppd.preferences.images import open_rgb
from ppd.vlm.processor import ImageTextProcessor

PATCHES_AT_ONCE = 1 << 15
"""The vision tower sees so many patches in one forward: 44 images of 27 x 27."""
IMAGES_PER_TASK = 4


@dataclass(frozen=True)
class Prepared:
    """Images on their way to the vision tower: pixels and sizes of a few of them a task."""

    n_images: int
    tasks: tuple[Future[tuple[Tensor, Tensor]], ...]


class Vision:
    """The vision tower of a LLaVA-OneVision and what goes before it.

    Decoding and shrinking an image takes a core longer than a GPU needs to see it, so several threads do it, and they
    may begin before the device is free (`prepare`).
    """

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, processor: ImageTextProcessor) -> None:
        self.model, self.processor = model, processor
        self._threads = ThreadPoolExecutor(os.cpu_count())

    @property
    def positions_per_image(self) -> int:
        """Several images a conversation: each is its base patches and a newline."""
        default = self.processor.vision_feature_select_strategy == "default"  # drops the class token
        return int(self.processor.num_image_tokens) + 1 - int(default)

    def prepare(self, images: Sequence[bytes]) -> Prepared:
        """Begin to decode and shrink these encoded images; `see` takes the result and raises what is wrong with one."""
        parts = (images[start : start + IMAGES_PER_TASK] for start in range(0, len(images), IMAGES_PER_TASK))
        return Prepared(len(images), tuple(self._threads.submit(self._pixels, part) for part in parts))

    def see(self, prepared: Prepared) -> Tensor:
        """What the language model gets of each image: [N, positions, width]."""
        parts = [task.result() for task in prepared.tasks]
        pixels, sizes = (torch.cat(both) for both in zip(*parts, strict=True))
        at_once = max(2, PATCHES_AT_ONCE // self.positions_per_image)
        seen: list[Tensor] = []
        for start in range(0, prepared.n_images, at_once):
            some, their_sizes = pixels[start : start + at_once], sizes[start : start + at_once]
            n_some = len(some)
            if n_some == 1:  # alone, the tower would take it for one that was cut into high-resolution patches
                some, their_sizes = some.repeat(2, *[1] * (some.dim() - 1)), their_sizes.repeat(2, 1)
            some = some.to(self.model.device, self.model.dtype)
            features = self.model.model.get_image_features(some, their_sizes, batch_num_images=[len(some)])
            seen += features.pooler_output[:n_some]
        return torch.stack(seen)

    def _pixels(self, images: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Pixels as the tower takes them, and sizes [N, 2].

        Nested, as of one conversation. Alone, an image would be cut into high-resolution patches, and squeezed where it
        is not square instead of padded; so it is never alone.
        """
        pictures = [open_rgb(image) for image in images]
        shown = pictures if len(pictures) > 1 else pictures * 2
        inputs = self.processor.image_processor([shown], return_tensors="pt")
        return inputs["pixel_values"][: len(pictures)], inputs["image_sizes"][: len(pictures)]
