"""Reader of Pick-a-Pic v2: parquet shards, streamed."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from ppd.errors import InputError
from ppd.preferences.ids import BadValue, id_text
from ppd.preferences.parquet import (
    ids,
    image_bytes,
    is_id,
    is_image,
    is_number,
    is_text,
    open_parquet,
    record_batches,
    require_columns,
    texts,
)
from ppd.preferences.rows import Batch, Position, RawRow, Refusal


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_null(kind)


def _is_label(kind: pa.DataType) -> bool:
    return is_number(kind) or pa.types.is_null(kind)


def _is_truth(kind: pa.DataType) -> bool:
    """pandas makes numbers of booleans as soon as one is missing."""
    return pa.types.is_boolean(kind) or _is_label(kind)


# The columns that are read, in the order of RawRow's fields: which types fit, and how to call them.
_USED: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "ranking_id": (is_id, "whole numbers or text"),
    "user_id": (is_id, "whole numbers or text"),
    "caption": (is_text, "text"),
    "created_at": (_is_time, "timestamps"),
    "image_0_uid": (is_id, "text"),
    "image_1_uid": (is_id, "text"),
    "jpg_0": (is_image, "bytes, or a struct with bytes"),
    "jpg_1": (is_image, "bytes, or a struct with bytes"),
    "label_0": (_is_label, "numbers"),
    "label_1": (_is_label, "numbers"),
    "best_image_uid": (is_id, "text"),
    "has_label": (_is_truth, "booleans"),
    "are_different": (_is_truth, "booleans"),
}
_IDS = ("ranking_id", "user_id", "image_0_uid", "image_1_uid", "best_image_uid")
_TRUTHS = ("has_label", "are_different")


@dataclass(frozen=True)
class PickAPic:
    """Shards of `ppd.preferences.schema.PICK_A_PIC`, in the order of their names."""

    root: Path
    files: tuple[Path, ...]
    n_rows: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Find the shards under `path` (or take `path` itself) and check the footer and the columns of each.

        Every shard is looked at before the first row is read, so that a broken one does not show after hours.
        Raises `InputError` for no shards, an unreadable file, a missing column or a column of a wrong type.
        """
        root, files = (path.parent, [path]) if path.is_file() else (path, _shards(path))
        if not files:
            own = path.is_dir() and any(file.stem == "choices" for file in path.iterdir())
            fix = "For a table of your own set preferences.source_format: folder" if own else None
            raise InputError("no *.parquet files found; expected Pick-a-Pic v2 shards", file=path, fix=fix)
        n_rows = 0
        for file in files:
            with open_parquet(file) as shard:
                _check_columns(shard.schema_arrow, file)
                n_rows += shard.metadata.num_rows
        return cls(root=root, files=tuple(files), n_rows=n_rows)

    def batches(self, start: Position) -> Iterator[Batch]:
        for index in range(start.file, len(self.files)):
            file = self.files[index]
            name = file.relative_to(self.root).as_posix()
            start_row = start.row if index == start.file else 0
            for first, record_batch in record_batches(file, list(_USED), start_row):
                rows = list(_rows(record_batch, file, name, first))
                yield Batch(rows, Position(index, first + len(rows)))


def _shards(root: Path) -> list[Path]:
    """Parquet files, but none that is hidden or in a hidden folder: what a Mac or a notebook leaves beside them."""
    files = (file for file in root.rglob("*") if file.suffix.lower() == ".parquet" and file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts))


def _check_columns(schema: pa.Schema, file: Path) -> None:
    require_columns(schema.names, _USED, file)
    for column, (fits, expected) in _USED.items():
        kind = schema.field(column).type
        if not fits(kind):
            raise InputError(f"the column holds {kind}; expected {expected}", file=file, column=column)


def _rows(batch: pa.RecordBatch, file: Path, name: str, first: int) -> Iterator[RawRow | Refusal]:
    try:
        values = {column: _values(column, batch.column(column)) for column in _USED}
    except pa.ArrowInvalid as error:  # such as a 64-bit unsigned id beyond the signed range
        raise InputError(f"values out of range ({error})", file=file, row=first) from error
    columns = [values[column] for column in _USED]
    for row, fields in enumerate(zip(*columns, strict=True)):
        bad = next(
            ((column, value) for column, value in zip(_USED, fields, strict=True) if _is_bad(value, column)), None
        )
        if bad is None:
            yield RawRow(name, first + row, *fields)
        elif isinstance(bad[1], BadValue):
            reason, detail = bad[1].args
            yield Refusal(name, first + row, reason, f"{bad[0]} {detail}")
        else:
            yield Refusal(name, first + row, "text_not_utf8", f"{bad[0]} is no valid UTF-8")


def _is_bad(value: object, column: str) -> bool:
    return isinstance(value, BadValue) or (column == "caption" and isinstance(value, bytes))


def _id(value: Any) -> str | BadValue | None:
    try:
        return id_text(value)
    except BadValue as problem:
        return problem


def _ranking(name: str | BadValue | None) -> int | BadValue | None:
    """Rankings are numbered; one that has a name gets a number made of it."""
    if not isinstance(name, str):
        return name
    if re.fullmatch(r"-?\d{1,18}", name):
        return int(name)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def _values(column: str, array: pa.Array) -> list[Any]:
    if column in _IDS:
        names = [_id(value) for value in ids(array)]
        return [_ranking(name) for name in names] if column == "ranking_id" else names
    if column == "caption":
        return texts(array)
    if column == "created_at":
        # Straight to integers: one Timestamp object a row would cost more than everything else here.
        return array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
    if column in _TRUTHS:
        return [None if value is None or value != value else bool(value) for value in array.to_pylist()]
    if column.startswith("jpg"):
        return image_bytes(array)
    return [None if value is None else float(value) for value in array.to_pylist()]
