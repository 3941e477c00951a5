"""Latents and text embeddings on disk, as `ppd.diffusion.encoding.encode` leaves them."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.errors import DamagedFile, InputError
from ppd.stored_tables import read_frame

LATENTS, IMAGES, CAPTIONS, SOURCE = "latents.npy", "images.parquet", "captions.parquet", "source.json"
TEXT = "text-{}.npy"
"""Of each part of `Text`, by its name."""
BYTES_AT_ONCE = 64 << 20


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
    image_checksum: np.ndarray
    text_checksum: np.ndarray
    """Of each row of the latents and of the text, as they were written: uint32."""
    source: str
    """Names the encoders, by content, and the size of the images."""

    @classmethod
    def open(cls, folder: Path, *, check: bool = True) -> Self:
        """Raises InputError when `folder` is not one that `encode` finished, DamagedFile if it is not as it was left.

        A file that was cut is always noticed. check: read all latents and text once and compare them with their
        checksums, a quarter of a second a GB; of several processes on one machine one is enough.
        """
        if not (folder / SOURCE).is_file():
            raise InputError("no latents here", file=folder, fix="Run `ppd stage encode` first")
        images, captions = read_frame(folder / IMAGES), read_frame(folder / CAPTIONS)
        latents = mapped(folder / LATENTS)
        prefix, suffix = TEXT.split("{}")
        files = {file.name[len(prefix) : -len(suffix)]: file for file in sorted(folder.glob(TEXT.format("*")))}
        parts = {name: mapped(file) for name, file in files.items()}
        for table, arrays in ((images, [latents]), (captions, [*parts.values()])):
            if "checksum" not in table or "tokens" not in parts or any(len(array) != len(table) for array in arrays):
                raise DamagedFile("tables and arrays do not belong together", folder)
        encoded = cls(
            latents=torch.from_numpy(latents),
            image_row=pd.Series(range(len(images)), index=images.image_uid),
            text=Text(**{name: torch.from_numpy(part) for name, part in parts.items()}),
            caption_row=pd.Series(range(len(captions)), index=captions.caption),
            image_digest=images.set_index("image_uid").digest,
            image_checksum=images.checksum.to_numpy(),
            text_checksum=captions.checksum.to_numpy(),
            source=(folder / SOURCE).read_text(encoding="utf-8"),
        )
        for name, wrong in (encoded.damaged() if check else {}).items():
            if len(wrong):
                raise DamagedFile(f"{len(wrong)} rows are not as they were written", folder / name.format("*"))
        return encoded

    def damaged(self) -> dict[str, np.ndarray]:
        """The rows that are not as they were written, of LATENTS and of TEXT: int64 each. Reads all of them."""
        return {
            LATENTS: wrong_rows([self.latents.numpy()], self.image_checksum),
            TEXT: wrong_rows([*text_arrays(self.text).values()], self.text_checksum),
        }


def mapped(file: Path, mode: Literal["r", "c"] = "c") -> np.ndarray:
    """The array in a .npy file, its pages read from there when they are used. Raises DamagedFile for one that was cut.

    mode: as of `numpy.memmap`; copy-on-write keeps torch content with a file that nothing ever writes to.
    """
    try:
        return np.load(file, mmap_mode=mode)
    except (OSError, ValueError) as error:
        raise DamagedFile(error, file) from error


def text_arrays(text: Text) -> dict[str, np.ndarray]:
    """The parts of N captions by name, in the order of their names: each [N, ...], on the CPU."""
    return {name: part.cpu().numpy() for name, part in sorted(text.tensors().items())}


def row_checksums(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """CRC-32 of each row's bytes, over all arrays in their order: uint32 [N]."""
    sums = np.zeros(len(arrays[0]), np.uint32)
    for array in arrays:
        for row, values in enumerate(array):
            sums[row] = zlib.crc32(np.ascontiguousarray(values).data, int(sums[row]))
    return sums


def wrong_rows(arrays: Sequence[np.ndarray], checksums: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Those of `rows` (all, if not given) whose checksum is another: int64. Reads some MB at a time."""
    rows = np.arange(len(checksums)) if rows is None else rows
    found = [
        some[row_checksums([array[some] for array in arrays]) != checksums[some]] for some in portions(rows, arrays)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])


def portions(rows: np.ndarray, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """`rows` in portions of which the arrays hold about `BYTES_AT_ONCE`."""
    size = max(1, BYTES_AT_ONCE // max(1, sum(array[:1].nbytes for array in arrays)))
    return (rows[start : start + size] for start in range(0, len(rows), size))
