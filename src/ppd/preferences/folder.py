"""Reader of a folder of one's own: `choices.csv`, `choices.jsonl` or `choices.parquet` beside image files.

Columns: `user`, `caption`, `image_a`, `image_b` (paths relative to the folder) and `choice` (`a`, `b` or `tie`).
"""

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

import pyarrow as pa

from ppd.errors import InputError
from ppd.preferences.parquet import is_text, open_parquet, record_batches, require_columns, texts
from ppd.preferences.rows import BATCH_ROWS, Batch, Position, RawRow, Refusal

COLUMNS = ("user", "caption", "image_a", "image_b", "choice")
_LABELS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}
_BYTES_PER_PIXEL = 8  # of the largest format allowed, 16-bit RGBA without any compression


class _RowProblem(Exception):
    """A single row that cannot be taken: (reason, detail)."""


@dataclass(frozen=True)
class Folder:
    """A table of choices and the images that it names. The uid of an image is a digest of its bytes.

    So a picture that lies under two names is still one image, and no split can tear its copies apart.
    """

    root: Path
    files: tuple[Path, ...]
    n_rows: int
    max_image_pixels: int

    @classmethod
    def open(cls, root: Path, max_image_pixels: int) -> Self:
        """Find the one table in `root`. Raises `InputError` for none, several, or one without the columns."""
        tables = [table for table in (root / f"choices{suffix}" for suffix in _RECORDS) if table.is_file()]
        if len(tables) != 1:
            found = " and ".join(table.name for table in tables) or "none"
            names = ", ".join(f"choices{suffix}" for suffix in _RECORDS)
            raise InputError(f"expected exactly one of {names}; found {found}", file=root)
        n_rows = sum(1 for _ in _RECORDS[tables[0].suffix](tables[0]))
        return cls(root=root, files=(tables[0],), n_rows=n_rows, max_image_pixels=max_image_pixels)

    def batches(self, start: Position) -> Iterator[Batch]:
        if start.file > 0:
            return
        table = self.files[0]
        records = enumerate(_RECORDS[table.suffix](table))
        remaining = itertools.islice(records, start.row, None)
        while chunk := list(itertools.islice(remaining, BATCH_ROWS)):
            rows = [self._row(table.name, index, record) for index, record in chunk]
            yield Batch(rows, Position(0, chunk[-1][0] + 1))

    def _row(self, file: str, row: int, record: "_Record") -> RawRow | Refusal:
        try:
            if isinstance(record, _RowProblem):
                raise record
            user, caption, path_a, path_b, choice = (_text(record, column) for column in COLUMNS)
            if choice.strip().lower() not in _LABELS:
                raise _RowProblem("choice_invalid", f"found {choice[:40]!r}; expected a, b or tie")
            image_a, image_b = self._image(path_a, "image_a"), self._image(path_b, "image_b")
        except _RowProblem as problem:
            reason, detail = problem.args
            return Refusal(file, row, reason, detail)
        label_a, label_b = _LABELS[choice.strip().lower()]
        uid_a, uid_b = (hashlib.sha256(image).hexdigest()[:32] for image in (image_a, image_b))
        return RawRow(
            file=file,
            row=row,
            ranking_id=row,
            user_id=user,
            caption=caption,
            created_us=None,
            uid_0=uid_a,
            uid_1=uid_b,
            image_0=image_a,
            image_1=image_b,
            label_0=label_a,
            label_1=label_b,
            best_uid=uid_a if label_a > label_b else uid_b,
            has_label=True,
            are_different=True,
        )

    def _image(self, name: str, column: str) -> bytes:
        """The bytes of an image file, which must lie inside the folder, also after links are followed."""
        shown = f"{column} {name[:200]!r}"
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root:
            raise _RowProblem("path_absolute", f"{shown}; expected a path relative to the folder")
        if ".." in windows.parts:  # knows both kinds of slash
            raise _RowProblem("path_outside", f"{shown} has a '..'")
        try:
            path = (self.root / posix).resolve(strict=True)
            if not path.is_relative_to(self.root.resolve()):
                raise _RowProblem("path_outside", f"{shown} leads out of the folder")
            if path.stat().st_size > self.max_image_pixels * _BYTES_PER_PIXEL:
                raise _RowProblem("image_too_large", f"{shown} has {path.stat().st_size} bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
            raise _RowProblem("image_missing", f"{shown}: {error.__class__.__name__}") from error


_Record = dict[str, Any] | _RowProblem


def _text(record: dict[str, Any], column: str) -> str:
    value = record.get(column)
    if value is None or value == "":
        raise _RowProblem("value_missing", column)
    if column == "user" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, bytes):
        raise _RowProblem("text_not_utf8", f"{column} is no valid UTF-8")
    if not isinstance(value, str):
        raise _RowProblem("wrong_type", f"{column} is {type(value).__name__}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _RowProblem("text_not_utf8", f"{column} is no valid UTF-8") from None
    return value


def _csv_records(table: Path) -> Iterator[_Record]:
    # Bytes that are not UTF-8 become surrogates here, which `_text` refuses row by row.
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        reader = csv.reader(lines)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise InputError(f"the header cannot be read ({error})", file=table, row=0) from error
        require_columns(header, COLUMNS, table)
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield _RowProblem("row_malformed", str(error))
                continue
            if fields is None:
                return
            if len(fields) == len(header):
                yield dict(zip(header, fields, strict=True))
            elif fields:  # an empty line is no record
                yield _RowProblem("row_malformed", f"{len(fields)} fields; the header has {len(header)}")


def _jsonl_records(table: Path) -> Iterator[_Record]:
    with table.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield _RowProblem("row_malformed", f"no JSON: {error}"[:200])
                continue
            if isinstance(record, dict):
                yield record
            else:
                yield _RowProblem("row_malformed", f"a JSON {type(record).__name__}; expected an object")


def _parquet_records(table: Path) -> Iterator[_Record]:
    with open_parquet(table) as file:
        schema = file.schema_arrow
    require_columns(schema.names, COLUMNS, table)
    for column in COLUMNS:
        kind = schema.field(column).type
        if not (is_text(kind) or (column == "user" and pa.types.is_integer(kind))):
            raise InputError(f"the column holds {kind}; expected text", file=table, column=column)
    for _, batch in record_batches(table, list(COLUMNS), 0):
        columns: Iterable[list[Any]] = (texts(batch.column(column)) for column in COLUMNS)
        for values in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, values, strict=True))


_RECORDS: dict[str, Callable[[Path], Iterator[_Record]]] = {
    ".csv": _csv_records,
    ".jsonl": _jsonl_records,
    ".parquet": _parquet_records,
}
