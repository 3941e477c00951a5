"""Latents and text embeddings on disk, as `ppd.diffusion.encoding.encode` leaves them."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.errors import DamagedFile, InputError
from ppd.stored_tables import read_frame
from ppd.stored_tensors import load_tensors

LATENTS, IMAGES, TEXT, CAPTIONS = "latents.npy", "images.parquet", "text.safetensors", "captions.parquet"
SOURCE = "source.json"
ROWS_AT_ONCE = 4096


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
    checksum: pd.Series
    """image_uid -> checksum of its latent"""
    source: str
    """Names the encoders, by content, and the size of the images."""

    @classmethod
    def open(cls, folder: Path, *, check_latents: bool = True) -> Self:
        """Raises InputError when `folder` is not one that `encode` finished, DamagedFile if it is not as it was left.

        check_latents: read all latents once and compare them with their checksums.
        """
        if not (folder / SOURCE).is_file():
            raise InputError("no latents here", file=folder, fix="Run `ppd stage encode` first")
        images = read_frame(folder / IMAGES)
        captions = read_frame(folder / CAPTIONS).caption
        text = Text(**load_tensors(folder / TEXT))
        try:
            # Copy-on-write keeps torch content with a read-only file; nothing ever writes.
            latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))
        except (OSError, ValueError) as error:
            raise DamagedFile(error, folder / LATENTS) from error
        if "checksum" not in images or len(images) != len(latents) or len(captions) != len(text):
            raise DamagedFile("tables and latents do not belong together", folder)
        encoded = cls(
            latents=latents,
            image_row=pd.Series(range(len(images)), index=images.image_uid),
            text=text,
            caption_row=pd.Series(range(len(captions)), index=captions),
            image_digest=images.set_index("image_uid").digest,
            checksum=images.set_index("image_uid").checksum,
            source=(folder / SOURCE).read_text(encoding="utf-8"),
        )
        if check_latents and len(wrong := damaged_rows(encoded)):
            raise DamagedFile(f"{len(wrong)} of {len(latents)} latents are not as they were written", folder / LATENTS)
        return encoded


def row_checksums(latents: np.ndarray) -> np.ndarray:
    """CRC-32 of each row's bytes: uint32 [I]."""
    return np.array([zlib.crc32(np.ascontiguousarray(row).data) for row in latents], np.uint32)


def damaged_rows(encoded: Encoded) -> np.ndarray:
    """The rows of the latents that are not as they were written: int64."""
    written = encoded.checksum.to_numpy()
    wrong = [
        start + np.flatnonzero(row_checksums(part.numpy()) != written[start : start + ROWS_AT_ONCE])
        for start, part in zip(range(0, len(written), ROWS_AT_ONCE), encoded.latents.split(ROWS_AT_ONCE), strict=False)
    ]
    return np.concatenate([np.empty(0, np.int64), *wrong])
