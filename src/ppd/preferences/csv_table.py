"""Reading a CSV of one's own so that every line is accounted for.

A quotation mark that nobody closed makes a parser take all lines up to the next one for a single field. Here a row goes
on over several lines only where these are together one row; else the line on which it began is refused alone, by its
number, and reading goes on with the next.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ppd.errors import InputError
from ppd.preferences.ids import BadValue

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_LINES = 1000
"""Of one row. A caption that is longer is taken for a quotation mark that is not closed."""

_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_IMAGE_FILE = re.compile(r"\.(png|jpe?g|webp)\W*$", re.IGNORECASE)

Fields = list[str]


@dataclass(frozen=True)
class Wanted:
    """What a row must have: its columns, by the names that the settings give them, and the words of its choice."""

    columns: Sequence[str]
    choice: str
    images: tuple[str, str]
    is_choice: Callable[[str], bool]


def open_text(table: Path) -> IO[str]:
    """The table as text, line ends as they are. UTF-8, or what its byte order mark says.

    Bytes that are not UTF-8 become surrogates, which are refused row by row where they are used. Raises `InputError`
    for UTF-16 without a mark.
    """
    with table.open("rb") as file:
        start = file.read(200)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            # Half a surrogate pair passes, to be refused in its row.
            errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
            return table.open(newline="", encoding=encoding, errors=errors)
    if start[1::2].count(0) > len(start) // 4 or start[::2].count(0) > len(start) // 4:
        raise InputError(
            "looks like UTF-16 without a byte order mark", file=table, fix="Save it as UTF-8, or as UTF-16 with a mark"
        )
    return table.open(newline="", encoding="utf-8", errors="surrogateescape")


def csv_rows(table: Path, wanted: Wanted) -> Iterator[dict[str, str] | BadValue]:
    """Every row of the table, or why it is none. Blank rows (also ",,,,") are no rows.

    Raises `InputError` when the header lacks a column, and when the text cannot be decoded.
    """
    with open_text(table) as text:
        try:
            yield from _rows(_Lines(text), table, wanted)
        except UnicodeError as error:
            raise InputError(f"the text cannot be decoded ({error})", file=table, fix="Save it as UTF-8") from error


class _Lines:
    """Lines that can be looked at before they are taken. Numbers count from 1, as an editor shows them."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._ahead, self.number = text, list[str](), 0

    def peek(self, at: int) -> str | None:
        while len(self._ahead) <= at:
            line = self._text.readline()
            if not line:
                return None
            self._ahead.append(line)
        return self._ahead[at]

    def take(self, n: int) -> None:
        del self._ahead[:n]
        self.number += n


def _rows(lines: _Lines, table: Path, wanted: Wanted) -> Iterator[dict[str, str] | BadValue]:
    separator, header = _header(lines, table, wanted)
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    places = header_places(header, wanted.columns, table, f" Its columns are separated by {SEPARATORS[separator]}.")
    dialect = _Dialect(separator, spaced)
    while (line := lines.peek(0)) is not None:
        if dialect.is_blank(line):
            lines.take(1)
            continue
        number = lines.number + 1
        fields, n = _next_row(lines, dialect, len(header), places, wanted)
        lines.take(n)
        if isinstance(fields, BadValue):
            yield fields
        elif len(fields) != len(header):
            yield BadValue("row_malformed", f"line {number} has {len(fields)} fields; the header has {len(header)}")
        else:
            yield {name: fields[at] for name, at in places.items()}


@dataclass(frozen=True)
class _Dialect:
    separator: str
    spaced: bool

    def parse(self, lines: Iterator[str]) -> Fields:
        """The first row. Raises csv.Error where a quotation mark stands where none may."""
        reader = csv.reader(lines, delimiter=self.separator, skipinitialspace=self.spaced, strict=True)
        return next(reader)

    def is_blank(self, line: str) -> bool:
        """Whether no field of it holds anything."""
        return not line.replace('""', "").strip(f"{self.separator} \t\r\n\0")

    def cut(self, line: str) -> Fields:
        """The fields of a line if no quotation mark meant anything."""
        return line.rstrip("\r\n").split(self.separator)


def _header(lines: _Lines, table: Path, wanted: Wanted) -> tuple[str, Fields]:
    """Separator and names; of the separators that one under which most of the wanted columns are there."""
    if (hint := lines.peek(0)) is not None and re.fullmatch(r"\"?sep=.\"?\s*", hint, re.IGNORECASE):
        lines.take(1)  # Excel's note to itself
    while (line := lines.peek(0)) is not None and not line.strip(',;|\t "\r\n'):
        lines.take(1)
    if line is None:
        return ",", []
    found: list[tuple[int, str, Fields]] = []
    unclosed = False
    for separator in SEPARATORS:
        try:
            names = _Dialect(separator, spaced=False).parse(iter([line]))
        except csv.Error:
            unclosed = True
            continue
        alike = {simple(name) for name in names}
        found.append((sum(simple(column) in alike for column in wanted.columns), separator, names))
    lines.take(1)
    known, separator, names = max(found, key=lambda each: each[0], default=(0, ",", []))
    if unclosed and known < len(wanted.columns):
        raise InputError("the header cannot be read: it has a quotation mark that nothing closes", file=table, row=0)
    return separator, names


def simple(name: str) -> str:
    """How a column's name is compared: without case, and with spaces, hyphens and underscores alike."""
    return re.sub(r"[\s_\-]+", "_", name.strip().strip("\ufeff").casefold())


def header_places(header: Sequence[str], columns: Sequence[str], file: Path, note: str = "") -> dict[str, int]:
    """Where each wanted column is. Raises `InputError` for one that is not there or is there twice."""
    exact = [name.strip() for name in header]
    alike = [simple(name) for name in header]
    places = {}
    for column in columns:
        for names, name in ((exact, column), (alike, simple(column))):
            if names.count(name) > 1:
                raise InputError(f"the column is there {names.count(name)} times", file=file, column=column)
            if name in names:
                places[column] = names.index(name)
                break
        else:
            found = ", ".join(repr(name) for name in exact[:12]) or "nothing"
            raise InputError(
                f"the column is missing; needed are {', '.join(columns)}, found are {found}.{note}".rstrip("."),
                file=file,
                column=column,
                fix="`preferences.columns` in the settings says what the columns are called",
            )
    return places


def _next_row(
    lines: _Lines, dialect: _Dialect, n_fields: int, places: dict[str, int], wanted: Wanted
) -> tuple[Fields | BadValue, int]:
    """The row that begins on the next line, and how many lines it is; a line that is none counts alone."""
    taken = 0

    def ahead() -> Iterator[str]:
        nonlocal taken
        while taken < MAX_LINES and (line := lines.peek(taken)) is not None:
            taken += 1
            yield line

    number = lines.number + 1
    try:
        fields = dialect.parse(ahead())
    except csv.Error as error:
        unclosed = "" if "limit" in str(error) else "has a quotation mark that nothing closes: "
        return BadValue("row_malformed", f"line {number} {unclosed}{error}"), 1
    while len(fields) > n_fields and not fields[-1].strip():
        fields.pop()  # a spreadsheet's empty columns at the end
    if taken == 1:
        return fields, 1
    cuts = [cut for at in range(taken) if len(cut := dialect.cut(str(lines.peek(at)))) >= n_fields]
    n_choices = sum(_has_choice(cut, n_fields, places, wanted) for cut in cuts)
    n_images = sum(_has_images(cut, n_fields, places, wanted) for cut in cuts)
    if len(fields) == n_fields and n_choices <= 1 and n_images <= 1:
        return fields, taken
    return BadValue("row_malformed", f"line {number} has a quotation mark that nothing closes"), 1


def _has_choice(cut: Fields, n_fields: int, places: dict[str, int], wanted: Wanted) -> bool:
    """Whether a line, taken for a whole row, has a choice in its place. Several such lines are several rows.

    Counted from the left and from the right, since separators in a caption move what is behind it.
    """
    choices = (cut[places[wanted.choice] + shift] for shift in (0, len(cut) - n_fields))
    return any(wanted.is_choice(choice.strip().strip('"')) for choice in choices)


def _has_images(cut: Fields, n_fields: int, places: dict[str, int], wanted: Wanted) -> bool:
    """The same for its two image files."""
    shifts = (0, len(cut) - n_fields)
    return any(all(_IMAGE_FILE.search(cut[places[image] + shift]) for image in wanted.images) for shift in shifts)
