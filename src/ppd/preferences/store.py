"""What every later stage reads: the pairs, the users, and any image by its uid."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from ppd.errors import DamagedFile, InputError
from ppd.preferences.images import open_rgb
from ppd.stored_tables import read_frame, reading

IMAGE_INDEX = "image_index.parquet"


@dataclass(frozen=True)
class Preferences:
    """A folder that `ingest` wrote. The tables are in memory, the images stay on disk.

    `pairs`: pair_id, user_id, caption, chosen_uid, rejected_uid, created_at, role, support_group (-1: none).
    `users`: user_id, split, shard, n_pairs, n_support_groups. `captions`: caption, split.
    May be copied to other processes: no file is held open.
    """

    folder: Path
    pairs: pd.DataFrame
    users: pd.DataFrame
    captions: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the tables of `folder`. Raises `InputError` when it is not one that `ingest` finished."""
        if not (folder / "summary.json").is_file():
            raise InputError("no preferences here", file=folder, fix="Run `ppd stage ingest` first")
        tables = {name: read_frame(folder / f"{name}.parquet") for name in ("pairs", "users", "captions")}
        return cls(folder=folder, **tables)

    def support(self, shard: str) -> pd.DataFrame:
        """The support pairs of one shard's users: the columns of `ppd.preferences.schema.SUPPORT_PAIRS`, in order."""
        file = self.folder / "support" / f"{shard}.parquet"
        if file not in {*(self.folder / "support").iterdir()}:  # a path in the name leads nowhere
            known = ", ".join(sorted(path.stem for path in (self.folder / "support").iterdir()))
            raise InputError(f"no shard is called {shard!r}; there are {known}", file=self.folder)
        return read_frame(file)

    def stored_images(self, uids: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        """(i, the encoded image uids[i]) for each i, in the order in which they are stored, as asked for.

        Each row group that is touched is read once, and one is in memory at a time. Raises `KeyError` for a uid that is
        not there.
        """
        at = self._places(uids)
        order = np.argsort(at, kind="stable")
        group = np.searchsorted(self._group_starts, at[order], side="right") - 1
        for part, groups in groupby(_runs(group, order), key=lambda run: self._groups[run[0]][0]):
            with reading(part), pq.ParquetFile(part, page_checksum_verification=True) as file:
                for wanted, places in groups:
                    column = file.read_row_group(self._groups[wanted][1], columns=["image"], use_threads=False)["image"]
                    for place in places.tolist():
                        yield place, column[int(at[place] - self._group_starts[wanted])].as_py()

    def stored_order(self, uids: Sequence[str]) -> np.ndarray:
        """Which of these images comes first in the files, which next: int64 [len(uids)], as `stored_images` goes."""
        return np.argsort(self._places(uids), kind="stable")

    def _places(self, uids: Sequence[str]) -> np.ndarray:
        at = self._index.get_indexer(pd.Index(uids))
        if (at < 0).any():
            raise KeyError(f"no image has the uid {uids[int(np.argmin(at))]!r}")
        return at

    def image_bytes(self, uids: Sequence[str]) -> list[bytes]:
        """The encoded images with these uids, in this order; see `stored_images`."""
        images = dict(self.stored_images(uids))
        return [images[place] for place in range(len(uids))]

    def images(self, uids: Iterable[str], chunk: int = 64) -> Iterator[Image.Image]:
        """RGB images with these uids as `open_rgb` shows them, in this order, read `chunk` at a time as asked for."""
        remaining = iter(uids)
        while some := list(islice(remaining, chunk)):
            for encoded in self.image_bytes(some):
                yield open_rgb(encoded)

    @cached_property
    def digests(self) -> pd.Series:
        """uid -> digest of the image's bytes, for all images in the order in which they are stored."""
        return read_frame(self.folder / IMAGE_INDEX).set_index("image_uid")["digest"]

    @property
    def _index(self) -> pd.Index:
        """A uid's place here is its place on disk."""
        return self.digests.index

    @cached_property
    def _groups(self) -> list[tuple[Path, int, int]]:
        """(part, number, images in it) of every row group, in order."""
        groups = []
        for part in sorted((self.folder / "images").glob("part-*.parquet")):
            with reading(part):
                metadata = pq.read_metadata(part)
            groups += [(part, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
        if sum(n for _, _, n in groups) != len(self._index):
            raise DamagedFile("it does not list the images that are there", self.folder / IMAGE_INDEX)
        return groups

    @cached_property
    def _group_starts(self) -> np.ndarray:
        """The place of the first image of each row group: int64 [len(_groups)]."""
        return np.cumsum([0, *(n for _, _, n in self._groups[:-1])])


def _runs(values: np.ndarray, items: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Of equal neighbours in `values`: the value, and the items beside it."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.empty(0, np.int64)
    return zip(values[starts].tolist(), np.split(items, starts)[1:], strict=True)
