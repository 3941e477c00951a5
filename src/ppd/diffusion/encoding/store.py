"""Latents and text embeddings on disk, as `ppd.diffusion.encoding.encode` leaves them."""

import zlib
from dataclasses import dataclass, fields
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
LATENTS_ROWS = LATENTS.removesuffix(".npy")
SOURCE = "source.json"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Encoded:
    """What `encode` left: latents [I, C, h, w] in fp16 and text by caption, both memory-mapped."""

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
    def open(cls, folder: Path, *, check_text: bool = True, check_latents: bool = True) -> Self:
        """Raises InputError when `folder` is not one that `encode` finished, DamagedFile if it is not as it was left.

        A file that was cut is always noticed. check_text, check_latents: read all of it once and compare it with its
        checksums, which takes a second or two a GB; of several processes on one machine one is enough.
        """
        if not (folder / SOURCE).is_file():
            raise InputError("no latents here", file=folder, fix="Run `ppd stage encode` first")
        images = read_frame(folder / IMAGES)
        captions = read_frame(folder / CAPTIONS).caption
        text = Text(**load_tensors(folder / TEXT, check=check_text))
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


def text_arrays(text: Text) -> dict[str, np.ndarray]:
    """The parts of N captions by name, each [N, ...]; on the CPU."""
    parts = {field.name: getattr(text, field.name) for field in fields(text)}
    return {name: part.cpu().numpy() for name, part in parts.items() if part is not None}


def row_checksums(*arrays: np.ndarray) -> np.ndarray:
    """CRC-32 of each row's bytes, over all arrays in their order: uint32 [N]."""
    sums = np.zeros(len(arrays[0]), np.uint32)
    for array in arrays:
        for row, values in enumerate(array):
            sums[row] = zlib.crc32(np.ascontiguousarray(values).data, int(sums[row]))
    return sums


def damaged_rows(encoded: Encoded) -> np.ndarray:
    """The rows of the latents that are not as they were written: int64."""
    written = encoded.checksum.to_numpy()
    wrong = [
        start + np.flatnonzero(row_checksums(part.numpy()) != written[start : start + ROWS_AT_ONCE])
        for start, part in zip(range(0, len(written), ROWS_AT_ONCE), encoded.latents.split(ROWS_AT_ONCE), strict=False)
    ]
    return np.concatenate([np.empty(0, np.int64), *wrong])
