"""Parquet from outside: opened, type-checked and read in batches, with damage reported as `InputError`."""

import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ppd.errors import InputError
from ppd.preferences.rows import BATCH_ROWS

DAMAGED = "Fetch the file again, or take it out of the folder"


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open `path`, which reads only its footer. Raises `InputError` when it is empty, truncated or no parquet."""
    try:
        # Without pre_buffer a column chunk is streamed: a row group of 500 MB does not have to fit in memory.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not readable as parquet: truncated or damaged ({error})", file=path, fix=DAMAGED) from error


def record_batches(path: Path, columns: list[str], start_row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (row of the first record, batch) from `start_row` on; a batch never spans two row groups.

    `start_row` must be where a batch begins. Raises `InputError` when the data behind a good footer is damaged.
    """
    row = 0
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            n_group_rows = file.metadata.row_group(group).num_rows
            if row + n_group_rows <= start_row:
                row += n_group_rows
                continue
            try:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                    if row >= start_row:
                        yield row, batch
                    row += len(batch)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"the data is damaged ({error})", file=path, row=row, fix=DAMAGED) from error


def require_columns(names: Iterable[str], required: Iterable[str], file: Path) -> None:
    """Raise `InputError` when a required column is not there; order and further columns do not matter."""
    present, needed = set(names), list(required)
    for column in needed:
        if column not in present:
            raise InputError(f"the column is missing; needed are {', '.join(needed)}", file=file, column=column)


def is_text(kind: pa.DataType) -> bool:
    """Text however it is stored: also as bytes, by a dictionary, or in a column that has no value at all."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    whole = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return whole or is_binary(kind) or pa.types.is_null(kind)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType) or (pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16)


def is_id(kind: pa.DataType) -> bool:
    """Whether a column of this type can name somebody or something (`ppd.preferences.ids`)."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_number(kind) or is_text(kind) or is_uuid(kind)


def is_image(kind: pa.DataType) -> bool:
    """Bytes, or the struct of bytes and path that the `datasets` library writes for an image."""
    if not pa.types.is_struct(kind):
        return is_binary(kind) or pa.types.is_null(kind)
    return kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)


def is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def texts(column: pa.Array) -> list[str | bytes | None]:
    """The values of a text column; one that is not UTF-8 stays bytes (Arrow does not check what parquet holds)."""
    try:
        return column.cast(pa.string()).to_pylist()
    except (UnicodeDecodeError, pa.ArrowInvalid):
        kind = pa.string() if pa.types.is_dictionary(column.type) else pa.binary()
        return [_decoded(value) for value in column.cast(kind).cast(pa.binary()).to_pylist()]


def ids(column: pa.Array) -> list[Any]:
    """The values of a column that names somebody or something, for `ppd.preferences.ids.id_text`."""
    if is_text(column.type):
        return texts(column)
    if pa.types.is_fixed_size_binary(column.type):
        return [None if value is None else uuid.UUID(bytes=value) for value in column.to_pylist()]
    return column.to_pylist()


def image_bytes(column: pa.Array) -> list[bytes | None]:
    """The values of a column of images."""
    if not pa.types.is_struct(column.type):
        return column.to_pylist()
    if column.null_count == 0:
        return column.field("bytes").to_pylist()
    return [None if value is None else value["bytes"] for value in column.to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
