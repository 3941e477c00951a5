"""The table of a folder of one's own, as records: CSV, JSON Lines or parquet, whatever wrote it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ppd.errors import InputError
from ppd.preferences.csv_table import Wanted, csv_rows, header_places, open_text, simple
from ppd.preferences.ids import BadValue
from ppd.preferences.parquet import ids, image_bytes, is_id, is_image, is_text, open_parquet, record_batches
from ppd.settings import ColumnSettings, word_of

SUFFIXES = (".csv", ".jsonl", ".parquet")

Record = dict[str, Any] | BadValue
"""The value of each wanted column, by the column's name in the settings; or why there is no record."""


def find_table(root: Path) -> Path:
    """The one `choices.*` in a folder. Raises `InputError` for none and for several."""
    files = sorted(root.iterdir()) if root.is_dir() else []
    tables = [file for file in files if file.stem == "choices" and file.suffix.lower() in SUFFIXES and file.is_file()]
    if len(tables) != 1:
        others = [file for file in files if file.stem == "choices"]  # such as choices.xlsx
        found = " and ".join(table.name for table in tables or others) or "none"
        names = ", ".join(f"choices{suffix}" for suffix in SUFFIXES)
        raise InputError(f"expected exactly one of {names}; found {found}", file=root)
    return tables[0]


def records(table: Path, columns: ColumnSettings) -> Iterator[Record]:
    """Every record in order. Where user and choice are lists, as long as each other, each entry is a record.

    Raises `InputError` when the table is damaged, or has not the columns.
    """
    for record in _RECORDS[table.suffix.lower()](table, columns):
        if isinstance(record, BadValue):
            yield record
        else:
            yield from _one_an_answer(record, columns)


def count(table: Path, columns: ColumnSettings) -> int:
    """How many `records` there are, without the images of a parquet file."""
    if table.suffix.lower() == ".parquet":
        with open_parquet(table) as file:
            schema, n_rows = file.schema_arrow, int(file.metadata.num_rows)
        names = _parquet_names(schema, table, columns)
        answers = {name: names[name] for name in _answer_columns(columns)}
        if not any(_is_list(schema.field(name).type) for name in answers.values()):
            return n_rows
        read = _parquet_values(table, schema, answers, columns)
        return sum(sum(1 for _ in _one_an_answer(record, columns)) for record in read)
    return sum(1 for _ in records(table, columns))


def wanted_columns(columns: ColumnSettings) -> tuple[str, ...]:
    """The columns that are read, in order."""
    needed = (columns.user, columns.caption, columns.image_a, columns.image_b, columns.choice)
    further = (columns.image_a_id, columns.image_b_id, columns.status)
    return tuple(dict.fromkeys([*needed, *(name for name in further if name is not None)]))


def choice_labels(columns: ColumnSettings) -> dict[str, tuple[float, float]]:
    """Labels of image_a and image_b by what the choice says."""
    choices = columns.choices
    meanings = ((choices.a, (1.0, 0.0)), (choices.b, (0.0, 1.0)), (choices.tie, (0.5, 0.5)))
    return {word_of(word): labels for words, labels in meanings for word in words}


def _answer_columns(columns: ColumnSettings) -> tuple[str, ...]:
    return (columns.user, columns.choice, *([columns.status] if columns.status else []))


def _one_an_answer(record: dict[str, Any], columns: ColumnSettings) -> Iterator[Record]:
    """Argilla keeps the answers of all annotators in one record, as lists."""
    lists = {name: record[name] for name in _answer_columns(columns) if isinstance(record.get(name), list)}
    if not lists:
        yield record
        return
    if columns.user not in lists or columns.choice not in lists or len({len(each) for each in lists.values()}) > 1:
        sizes = ", ".join(f"{name} {len(each)}" for name, each in lists.items())
        yield BadValue("wrong_type", f"lists of different lengths, one entry an answer is expected: {sizes}")
        return
    for values in zip(*lists.values(), strict=True):
        yield record | dict(zip(lists, values, strict=True))


def _csv_records(table: Path, columns: ColumnSettings) -> Iterator[Record]:
    labels = choice_labels(columns)
    wanted = Wanted(
        columns=wanted_columns(columns),
        choice=columns.choice,
        images=(columns.image_a, columns.image_b),
        is_choice=lambda text: word_of(text) in labels,
    )
    yield from csv_rows(table, wanted)


def _jsonl_records(table: Path, columns: ColumnSettings) -> Iterator[Record]:
    wanted = wanted_columns(columns)
    with open_text(table) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip(" \t\r\n\0\ufeff"):
                    yield _json_record(line, number, wanted, table)
        except UnicodeError as error:
            raise InputError(f"the text cannot be decoded ({error})", file=table, fix="Save it as UTF-8") from error


def _json_record(line: str, number: int, wanted: tuple[str, ...], table: Path) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        if number == 1 and line.strip() == "[":
            fix = "Write one object a line (pandas: to_json(..., orient='records', lines=True))"
            raise InputError("a JSON array; expected JSON Lines", file=table, row=0, fix=fix) from error
        comma = "a comma behind it; " if line.rstrip().endswith("},") else ""
        return BadValue("row_malformed", f"line {number} is no JSON: {comma}{error}"[:200])
    if not isinstance(record, dict):
        return BadValue("row_malformed", f"line {number} is a JSON {type(record).__name__}; expected an object")
    alike = {simple(name): value for name, value in record.items()}
    return {name: record.get(name, alike.get(simple(name))) for name in wanted}


def _parquet_records(table: Path, columns: ColumnSettings) -> Iterator[Record]:
    with open_parquet(table) as file:
        schema = file.schema_arrow
    yield from _parquet_values(table, schema, _parquet_names(schema, table, columns), columns)


def _parquet_names(schema: pa.Schema, table: Path, columns: ColumnSettings) -> dict[str, str]:
    """What the file calls each wanted column. Raises `InputError` where one is missing or of a type that cannot be."""
    places = header_places(schema.names, wanted_columns(columns), table)
    for name, at in places.items():
        kind, expected = schema.field(at).type, _expected(name, columns)
        if not any(fits(kind) for fits in _FITS[expected]):
            raise InputError(f"the column holds {kind}; expected {expected}", file=table, column=name)
    return {name: schema.names[at] for name, at in places.items()}


def _expected(name: str, columns: ColumnSettings) -> str:
    if name in (columns.image_a, columns.image_b):
        return "paths (text), bytes, or a struct with bytes"
    if name == columns.choice:
        return "text or numbers"
    return "text" if name in (columns.caption, columns.status) else "text or whole numbers"


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


_FITS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "paths (text), bytes, or a struct with bytes": (is_id, is_image),
    "text or numbers": (is_id, pa.types.is_boolean, _is_list),
    "text": (is_text, _is_list),
    "text or whole numbers": (is_id, _is_list),
}


def _parquet_values(
    table: Path, schema: pa.Schema, names: dict[str, str], columns: ColumnSettings
) -> Iterator[dict[str, Any]]:
    for _, batch in record_batches(table, list(dict.fromkeys(names.values())), 0):
        values = [_values(batch.column(name)) for name in names.values()]
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_struct(column.type):
        return _images(column)
    return ids(column) if is_id(column.type) else column.to_pylist()


def _images(column: pa.Array) -> list[Any]:
    """Of the struct that `datasets` writes the bytes, or where it has none the path."""
    found: list[Any] = image_bytes(column)
    if column.type.get_field_index("path") < 0 or all(found):
        return found
    return [data or (value or {}).get("path") for data, value in zip(found, column.to_pylist(), strict=True)]


_RECORDS: dict[str, Callable[[Path, ColumnSettings], Iterator[Record]]] = {
    ".csv": _csv_records,
    ".jsonl": _jsonl_records,
    ".parquet": _parquet_records,
}
