"""Parquet from outside: opened, type-checked and read in batches, with damage reported as `InputError`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

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
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def texts(column: pa.Array) -> list[str | bytes | None]:
    """The values of a text column; one that is not UTF-8 stays bytes (Arrow does not check what parquet holds)."""
    column = column.cast(pa.string())
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
