"""The CLIP score: how well an image fits its caption (Hessel et al. 2021, arXiv 2104.08718, without its rescaling)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, BaseImageProcessor, CLIPModel, PreTrainedTokenizerBase

from ppd.rewards.scorer import Images


class ClipScorer:
    """`scale` times the cosine of image and caption in a CLIP's space, for any CLIP of transformers.

    The checkpoint's own processor resizes and normalises the images.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        processor: BaseImageProcessor,
        *,
        scale: float = 100.0,
        batch_size: int = 64,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.scale, self.batch_size = scale, batch_size

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Load model, tokenizer and image processor from a folder (or hub id) in the hub's layout."""
        options = {"revision": revision} if revision else {}
        return cls(
            CLIPModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **options).to(device),
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options),
            AutoImageProcessor.from_pretrained(
                folder, backend="pil", trust_remote_code=False, **options
            ),  # resizes alike everywhere
        )

    def __call__(self, images: Images, captions: Sequence[str]) -> NDArray[np.float64]:
        """Scores of N images, each with its own caption: [N]."""
        unique = sorted(set(captions))
        row_of = {caption: row for row, caption in enumerate(unique)}
        texts = self._embed_texts(unique)[[row_of[caption] for caption in captions]]
        return (self.scale * (self.embed_images(images) * texts).sum(dim=1)).double().numpy()

    def table(self, images: Images, captions: Sequence[str]) -> NDArray[np.float64]:
        """Scores of N images with each of M captions: [N, M]."""
        return (self.scale * self.embed_images(images) @ self._embed_texts(list(captions)).T).double().numpy()

    @torch.inference_mode()
    def _embed_texts(self, captions: list[str]) -> Tensor:
        """Unit vectors [M, D] on the CPU."""
        parts = []
        for start in range(0, len(captions), self.batch_size):
            inputs = self.tokenizer(
                captions[start : start + self.batch_size],
                padding="max_length",
                max_length=self.model.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            outputs = self.model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            parts.append(self.model.text_projection(outputs.pooler_output))
        return functional.normalize(torch.cat(parts), dim=1).cpu()

    @torch.inference_mode()
    def embed_images(self, images: Images) -> Tensor:
        """Unit vectors [N, D] on the CPU."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            batch = [Image.fromarray(image) for image in images[start : start + self.batch_size]]
            pixels = self.processor(images=batch, return_tensors="pt")["pixel_values"].to(self.model.device)
            parts.append(self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output))
        return functional.normalize(torch.cat(parts), dim=1).cpu()
