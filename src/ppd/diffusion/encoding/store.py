"""Latents and text embeddings on disk, as `ppd.diffusion.encoding.encode` leaves them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.errors import InputError

LATENTS, IMAGES, TEXT, CAPTIONS = "latents.npy", "images.parquet", "text.safetensors", "captions.parquet"
SOURCE = "source.json"


@dataclass(frozen=True)
class Encoded:
    """What `encode` left: latents [I, C, h, w] in fp16, memory-mapped, and text by caption."""

    latents: Tensor
    image_row: pd.Series
    """image_uid -> row of latents"""
    text: Text
    caption_row: pd.Series
    """caption -> row of text"""
    image_digest: pd.Series
    """image_uid -> digest of the bytes that were encoded"""
    source: str
    """Names the encoders, by content, and the size of the images."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises InputError when `folder` is not one that `encode` finished."""
        if not (folder / SOURCE).is_file():
            raise InputError("no latents here", file=folder, fix="Run `ppd stage encode` first")
        images = pd.read_parquet(folder / IMAGES)
        captions = pd.read_parquet(folder / CAPTIONS).caption
        # Copy-on-write keeps torch content with a read-only file; nothing ever writes.
        latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))
        return cls(
            latents=latents,
            image_row=pd.Series(range(len(images)), index=images.image_uid),
            text=Text(**load_file(folder / TEXT)),
            caption_row=pd.Series(range(len(captions)), index=captions),
            image_digest=images.set_index("image_uid").digest,
            source=(folder / SOURCE).read_text(encoding="utf-8"),
        )
