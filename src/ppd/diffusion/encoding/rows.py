"""Arrays on disk that are filled row by row, in any order, and taken up again after a kill."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ppd.diffusion.encoding.store import mapped, portions, row_checksums, wrong_rows
from ppd.errors import DamagedFile
from ppd.files import writing

CHECKSUMS = "rows.crc32"


class Rows:
    """N rows in a folder: an array [N, ...] a name, in NAME.npy, and the checksum of each row.

    A row counts as written once its checksum is right, so nobody keeps a list of what is done: neither a kill nor a
    power cut can pass off half a row, and whatever is damaged is simply missing again. Rows are written to the files
    and read through maps of them, so none of it is memory that the machine could not take back.
    """

    def __init__(self, folder: Path) -> None:
        """What `create` made. Raises FileNotFoundError where nothing was, DamagedFile where a file was cut."""
        self.folder = folder
        if not (folder / CHECKSUMS).exists():  # made last: where they are, the arrays are
            raise FileNotFoundError(folder / CHECKSUMS)
        self._checksums = mapped(folder / CHECKSUMS, "r")
        self._arrays = {file.stem: mapped(file, "r") for file in sorted(folder.glob("*.npy"))}
        if any(len(array) != len(self._checksums) for array in self._arrays.values()):
            raise DamagedFile("arrays of different lengths", folder)

    @classmethod
    def create(cls, folder: Path, n: int, like: Mapping[str, np.ndarray]) -> Self:
        """Room for n rows, each as a row of `like`: all at once, so a full disk is an InputError here, not in hours."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in like.items():
            _take_room(folder / f"{name}.npy", array.dtype, (n, *array.shape[1:]))
        _take_room(folder / CHECKSUMS, np.dtype(np.uint32), (n,))
        return cls(folder)

    def __len__(self) -> int:
        return len(self._checksums)

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of a name [N, ...], mapped and read-only."""
        return self._arrays[name]

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """Of each row; 0 where none was written. A copy."""
        return np.array(self._checksums)

    def put(self, rows: NDArray[np.integer], values: Mapping[str, np.ndarray]) -> None:
        """Write rows: values of every name, [len(rows), ...]."""
        stored = {name: np.asarray(values[name], self[name].dtype) for name in self.names}
        if any(array.shape[1:] != self[name].shape[1:] for name, array in stored.items()):
            raise ValueError(f"rows of other shapes than those in {self.folder}")
        for name, array in stored.items():
            _write(self.file(name), self[name], rows, array)
        _write(self.folder / CHECKSUMS, self._checksums, rows, row_checksums([*stored.values()]))

    def missing(self) -> NDArray[np.int64]:
        """The rows that were not written, or are not as they were written, which is said."""
        checksums = self.checksums
        written = np.flatnonzero(checksums)
        damaged = wrong_rows([*self._arrays.values()], checksums, written)
        if len(damaged):
            words = DamagedFile(f"{len(damaged)} of {len(written)} rows are not as they were written", self.folder)
            Console(stderr=True).print(f"{words}\nThey are encoded again.", soft_wrap=True, markup=False)
        return np.union1d(np.flatnonzero(checksums == 0), damaged)

    def copy(self, rows: NDArray[np.int64], source: Mapping[str, np.ndarray], source_rows: NDArray[np.int64]) -> None:
        """Take rows over from other arrays, some MB at a time."""
        for some in portions(np.arange(len(rows)), [*self._arrays.values()]):
            self.put(rows[some], {name: source[name][source_rows[some]] for name in self.names})


def _take_room(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    with writing(file), file.open("wb") as written:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(written, header)
        length = written.tell() + int(np.prod(shape)) * dtype.itemsize
        written.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(written.fileno(), 0, length)
        written.truncate(length)


def _write(file: Path, array: np.ndarray, rows: NDArray[np.integer], values: np.ndarray) -> None:
    """To the file that `array` maps, not to the map: without room that is an error, in a map the process would die."""
    size = array[:1].nbytes
    start = file.stat().st_size - array.nbytes
    with writing(file), file.open("r+b") as target:
        for row, value in zip(rows.tolist(), values, strict=True):
            target.seek(start + row * size)
            target.write(np.ascontiguousarray(value).data)
