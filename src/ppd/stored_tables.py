"""Parquet files that check themselves when they are read: each page carries a checksum."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ppd.errors import DamagedFile, InputError
from ppd.files import unwritable


def write_table(table: pd.DataFrame | pa.Table, file: Path, **options: Any) -> None:
    """Write a table; a frame's index is not kept. options: of pyarrow."""
    if isinstance(table, pd.DataFrame):
        table.to_parquet(file, index=False, write_page_checksum=True, **options)
    else:
        pq.write_table(table, file, write_page_checksum=True, **options)


def read_frame(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A table, or some of its columns. Raises InputError if it is not there, DamagedFile if it is not as written."""
    with reading(file):
        return pd.read_parquet(file, columns=columns, page_checksum_verification=True)


def read_table(file: Path, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """The same as an Arrow table."""
    with reading(file):
        return pq.read_table(file, columns=columns, schema=schema, page_checksum_verification=True)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Makes an error with the file's name of whatever a library says of a file that is not there or not readable."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError("is not there", file=file, fix="Run `dvc repro`, which makes what is missing") from error
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and unwritable(error) is not None:  # no permission: nothing is damaged
            raise
        raise DamagedFile(error, file) from error
