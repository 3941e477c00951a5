"""Sampled images on disk, as `ppd.diffusion.sampling.run` leaves them: read and decoded where they are used."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ppd.stored_tables import read_frame, read_table, reading

PNG = "png"
_GROUP_BYTES = 1 << 20  # a row group is what is read for one image: one or two of 1024 px


def write_samples(parts: Iterable[Path], file: Path) -> None:
    """Put tables of requests with their PNGs one behind the other, one of them in memory at a time."""
    writer: pq.ParquetWriter | None = None
    try:
        for table in map(read_table, parts):
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, write_page_checksum=True)
            mean = table[PNG].nbytes // max(1, len(table))
            writer.write_table(table, row_group_size=max(1, _GROUP_BYTES // max(1, mean)))
    finally:
        if writer is not None:
            writer.close()


class SampledImages(Sequence[NDArray[np.uint8]]):
    """The images of a file in their order, [H, W, 3] each.

    Only what is asked for is read, and nothing is kept but the last row group.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with reading(file):
            metadata = pq.read_metadata(file)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._last: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return np.asarray(Image.open(io.BytesIO(self.png(index)), formats=["PNG"]).convert("RGB"))

    def png(self, index: int) -> bytes:
        """One image as it lies in the file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self._ends, index, side="right"))
        if self._last is None or self._last[0] != group:
            with reading(self.file), pq.ParquetFile(self.file, page_checksum_verification=True) as stored:
                self._last = group, stored.read_row_group(group, columns=[PNG], use_threads=False)[PNG]
        column = self._last[1]
        png: bytes = column[index - int(self._ends[group]) + len(column)].as_py()
        return png


def open_samples(file: Path) -> tuple[pd.DataFrame, SampledImages]:
    """What `sample_images` wrote: the requests, and the images in the same order, still on disk."""
    with reading(file):
        names = [name for name in pq.read_schema(file).names if name != PNG]
    return read_frame(file, names), SampledImages(file)


def read_samples(file: Path) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """The same with all images [N, H, W, 3] in memory."""
    requests, images = open_samples(file)
    return requests, np.stack(images[:]) if len(images) else np.empty((0, 0, 0, 3), np.uint8)
