"""Reader of Pick-a-Pic v2: parquet shards, streamed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from ppd.errors import InputError
from ppd.preferences.parquet import is_binary, is_text, open_parquet, record_batches, require_columns, texts
from ppd.preferences.rows import Batch, Position, RawRow, Refusal


def _is_image(kind: pa.DataType) -> bool:
    """Bytes, or the struct of bytes and path that the `datasets` library writes for an image."""
    if not pa.types.is_struct(kind):
        return is_binary(kind)
    return kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_user(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or is_text(kind)


# The columns that are read, in the order of RawRow's fields: which types fit, and how to call them.
_USED: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "ranking_id": (pa.types.is_integer, "integers"),
    "user_id": (_is_user, "integers or text"),
    "caption": (is_text, "text"),
    "created_at": (pa.types.is_timestamp, "timestamps"),
    "image_0_uid": (is_text, "text"),
    "image_1_uid": (is_text, "text"),
    "jpg_0": (_is_image, "bytes, or a struct with bytes"),
    "jpg_1": (_is_image, "bytes, or a struct with bytes"),
    "label_0": (_is_number, "numbers"),
    "label_1": (_is_number, "numbers"),
    "best_image_uid": (is_text, "text"),
    "has_label": (pa.types.is_boolean, "booleans"),
    "are_different": (pa.types.is_boolean, "booleans"),
}
_TEXTS = ("user_id", "caption", "image_0_uid", "image_1_uid", "best_image_uid")


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
        root, files = (path.parent, [path]) if path.is_file() else (path, sorted(path.rglob("*.parquet")))
        if not files:
            raise InputError("no *.parquet files found; expected Pick-a-Pic v2 shards", file=path)
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
    bad_texts = {
        row: column for column in _TEXTS for row, value in enumerate(values[column]) if isinstance(value, bytes)
    }
    for row, fields in enumerate(zip(*columns, strict=True)):
        if row in bad_texts:
            yield Refusal(name, first + row, "text_not_utf8", f"{bad_texts[row]} is no valid UTF-8")
        else:
            yield RawRow(name, first + row, *fields)


def _values(column: str, array: pa.Array) -> list[Any]:
    if column in _TEXTS:
        return texts(array)
    if column == "created_at":
        # Straight to integers: one Timestamp object a row would cost more than everything else here.
        return array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
    if column == "ranking_id":
        return array.cast(pa.int64()).to_pylist()
    if pa.types.is_struct(array.type):
        return array.field("bytes").to_pylist() if array.null_count == 0 else _struct_bytes(array)
    return array.to_pylist()


def _struct_bytes(array: pa.StructArray) -> list[bytes | None]:
    return [None if value is None else value["bytes"] for value in array.to_pylist()]
