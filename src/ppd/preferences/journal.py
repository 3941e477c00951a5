"""Ingestion on disk while it runs: finished parts beside the target, so that a killed run goes on where it was.

The scratch folder `.NAME.partial` lies beside the target `NAME`. A part is the images, pairs and refusals of some
batches; it counts once `progress.json`, replaced by a rename, says so. Whatever lies there beyond that is dropped.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ppd.files import atomic_path
from ppd.preferences.cleaning import Cleaned, Pair, StoredImage
from ppd.preferences.rows import Position, Refusal, Source
from ppd.preferences.schema import IMAGES, PAIRS, REFUSED

_GROUP_BYTES, _GROUP_IMAGES = 1 << 20, 1024  # a row group is what is read for one image: a few photographs
_PART_BYTES, _PART_ROWS = 256 << 20, 50_000


class Limits(NamedTuple):
    """When a part is full."""

    part_bytes: int = _PART_BYTES
    part_rows: int = _PART_ROWS


class Journal:
    """Takes what cleaning accepts, in order, and writes it part by part.

    `counts` holds how many rows were `read` and `refused`, how many images were stored, and every way to be dropped
    as `dropped.REASON` and to be refused as `refused.REASON`. All of it is as of `position`.
    """

    def __init__(self, target: Path, settings: dict[str, object], source: Source, limits: Limits) -> None:
        self.folder = target.parent / f".{target.name}.partial"
        self.position = Position(0, 0)
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._source = source
        self._limits = limits
        self._n_parts = 0
        self._writer: pq.ParquetWriter | None = None
        self._start_part()
        if not self._resume():
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / "images").mkdir(parents=True)
            (self.folder / "journal").mkdir()

    @property
    def has_parts(self) -> bool:
        """Whether anything is kept that a later run would go on from."""
        return self._n_parts > 0

    def pairs(self) -> pa.Table:
        """All pairs of the finished parts, in order."""
        return pa.concat_tables([pq.read_table(self._path("pairs", part)) for part in range(self._n_parts)])

    def digests(self) -> Iterator[tuple[str, bytes]]:
        """(uid, digest) of every image of the finished parts."""
        for part in range(self._n_parts):
            table = pq.read_table(self._images_path(part), columns=["image_uid", "digest"])
            yield from zip(*(column.to_pylist() for column in table.columns), strict=True)

    def add(self, cleaned: Cleaned, n_rows: int, position: Position) -> None:
        """Take the outcome of `n_rows` rows that end at `position`; finish a part when it is full."""
        self.position = position
        self.counts["read"] += n_rows
        self.counts["images"] += len(cleaned.images)
        self.counts["refused"] += len(cleaned.refused)
        self.counts.update(f"refused.{refusal.reason}" for refusal in cleaned.refused)
        self.counts.update({f"dropped.{reason}": n for reason, n in cleaned.dropped.items()})
        self._n_rows += n_rows
        self._pairs += cleaned.pairs
        self._refused += cleaned.refused
        for image in cleaned.images:
            self._group.append(image)
            self._group_bytes += len(image.encoded)
            if self._group_bytes >= _GROUP_BYTES or len(self._group) >= _GROUP_IMAGES:
                self._write_group()
        if self._part_bytes + self._group_bytes >= self._limits.part_bytes or self._n_rows >= self._limits.part_rows:
            self.finish_part()

    def finish_part(self) -> None:
        """Write what is pending, if anything is, as a part of its own and record the progress."""
        if self._n_rows == 0 and self.has_parts:
            return
        self._write_group()
        self._images.close()
        part = self._n_parts
        pq.write_table(_table(self._pairs, PAIRS), self._path("pairs", part))
        pq.write_table(_table(self._refused, REFUSED), self._path("refused", part))
        self._n_parts += 1
        self._start_part()
        with atomic_path(self._progress_path) as path:
            path.write_text(json.dumps(self._progress()))

    def write_refused(self, path: Path) -> None:
        """Gather the refusals of all parts in one table at `path`."""
        with pq.ParquetWriter(path, REFUSED) as writer:
            for part in range(self._n_parts):
                writer.write_table(pq.read_table(self._path("refused", part)))

    def close(self) -> None:
        """Drop the writer of a part that was not finished; what it cannot write any more is not needed."""
        if self._writer is not None:
            with suppress(OSError):  # a full disk has been said already
                self._writer.close()
            self._writer = None

    def publish(self, target: Path) -> None:
        """Put the folder in the target's place, without what only a running ingestion needs."""
        self._progress_path.unlink()  # first: without it, what a kill leaves behind is not taken for progress
        shutil.rmtree(self.folder / "journal")
        with atomic_path(target) as fresh:
            self.folder.rename(fresh)

    def _start_part(self) -> None:
        self._pairs: list[Pair] = []
        self._refused: list[Refusal] = []
        self._group: list[StoredImage] = []
        self._n_rows = self._group_bytes = self._part_bytes = 0
        self._writer = None

    @property
    def _images(self) -> pq.ParquetWriter:
        if self._writer is None:
            path = self._images_path(self._n_parts)
            # Encoded images do not compress, and neither a dictionary nor minima of them are of use.
            self._writer = pq.ParquetWriter(
                path,
                IMAGES,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        return self._writer

    def _write_group(self) -> None:
        if self._group:
            rows = [(image.uid, image.encoded, image.width, image.height, image.digest) for image in self._group]
            self._images.write_table(_table(rows, IMAGES))
            self._part_bytes += self._group_bytes
            self._group, self._group_bytes = [], 0

    @property
    def _progress_path(self) -> Path:
        return self.folder / "journal" / "progress.json"

    def _images_path(self, part: int) -> Path:
        return self.folder / "images" / f"part-{part:05d}.parquet"

    def _path(self, kind: str, part: int) -> Path:
        return self.folder / "journal" / f"{kind}-{part:05d}.parquet"

    def _progress(self) -> dict[str, object]:
        return {
            "settings": self._settings,
            "limits": list(self._limits),
            "files": _stamps(self._source.files[: self.position.file + 1]),
            "position": list(self.position),
            "n_parts": self._n_parts,
            "counts": dict(self.counts),
        }

    def _resume(self) -> bool:
        """Take up the progress of an interrupted run, if it had the same settings and read the same files."""
        if not self._progress_path.is_file():
            return False
        progress = json.loads(self._progress_path.read_text())
        position = Position(*progress["position"])
        if progress != {
            **progress,
            "settings": self._settings,
            "limits": list(self._limits),
            "files": _stamps(self._source.files[: position.file + 1]),
        }:
            return False
        self.position = position
        self.counts = Counter(progress["counts"])
        self._n_parts = progress["n_parts"]
        finished = {self._images_path(part) for part in range(self._n_parts)}
        for path in (self.folder / "images").iterdir():
            if path not in finished:
                path.unlink()
        return True


@contextmanager
def open_journal(
    target: Path, settings: dict[str, object], source: Source, limits: Limits | None = None
) -> Iterator[Journal]:
    """A journal for `target`, resumed if it can be. After an error it stays if it has parts to go on from."""
    journal = Journal(target, settings, source, limits or Limits())
    try:
        yield journal
    finally:
        journal.close()
        if not journal.has_parts:
            shutil.rmtree(journal.folder, ignore_errors=True)


def _stamps(files: tuple[Path, ...]) -> list[list[object]]:
    """What shows that a file is still the same: name, bytes, time of the last change."""
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema)
