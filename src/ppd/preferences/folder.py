"""Reader of a folder of one's own: `choices.csv`, `choices.jsonl` or `choices.parquet`, with or beside its images.

Columns: `user`, `caption`, `image_a`, `image_b` (paths relative to the folder, or the image itself) and `choice` (`a`,
`b` or `tie`); `preferences.columns` gives them other names. docs/own-data.md has examples.
"""

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ppd.preferences.ids import BadValue, caption_text, id_text
from ppd.preferences.image_files import ImageFiles
from ppd.preferences.rows import BATCH_ROWS, Batch, Position, RawRow, Refusal
from ppd.preferences.tables import Record, choice_labels, count, find_table, records
from ppd.settings import ColumnSettings, word_of

COLUMNS = ("user", "caption", "image_a", "image_b", "choice")
SUBMITTED = "submitted"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Folder:
    """A table of choices and the images that it names or holds. The uid of an image is a digest of its bytes.

    So a picture that lies under two names is still one image, and no split can tear its copies apart. Where the columns
    `image_a_id` and `image_b_id` are given, they are the uids.
    """

    root: Path
    files: tuple[Path, ...]
    n_rows: int
    max_image_pixels: int
    columns: ColumnSettings = field(default_factory=ColumnSettings)

    @classmethod
    def open(cls, root: Path, max_image_pixels: int, columns: ColumnSettings | None = None) -> Self:
        """Find the one table in `root`. Raises `InputError` for none, several, or one without the columns."""
        columns = columns or ColumnSettings()
        table = find_table(root)
        return cls(root, (table,), count(table, columns), max_image_pixels, columns)

    def batches(self, start: Position) -> Iterator[Batch]:
        if start.file > 0:
            return
        table = self.files[0]
        make = _RowMaker(self, ImageFiles(self.root, self.max_image_pixels))
        remaining = itertools.islice(enumerate(records(table, self.columns)), start.row, None)
        while chunk := list(itertools.islice(remaining, BATCH_ROWS)):
            rows = [make.row(table.name, index, record) for index, record in chunk]
            yield Batch(rows, Position(0, chunk[-1][0] + 1))


class _RowMaker:
    def __init__(self, folder: Folder, files: ImageFiles) -> None:
        self._columns, self._files = folder.columns, files
        self._labels = choice_labels(folder.columns)

    def row(self, file: str, row: int, record: Record) -> RawRow | Refusal:
        try:
            if isinstance(record, BadValue):
                raise record
            return self._made(file, row, record)
        except BadValue as problem:
            reason, detail = problem.args
            return Refusal(file, row, reason, detail)

    def _made(self, file: str, row: int, record: dict[str, Any]) -> RawRow:
        columns = self._columns
        answered = columns.status is None or record[columns.status] in (None, "", SUBMITTED)
        user, caption = _id(record, columns.user), _caption(record, columns.caption)
        label_a, label_b = self._choice(record[columns.choice]) if answered else (None, None)
        image_a, image_b = (self._image(record, column) for column in (columns.image_a, columns.image_b))
        if columns.image_a_id is None or columns.image_b_id is None:
            uid_a, uid_b = (hashlib.sha256(image).hexdigest()[:32] for image in (image_a, image_b))
        else:
            uid_a, uid_b = _id(record, columns.image_a_id), _id(record, columns.image_b_id)
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
            best_uid=uid_a if label_a == 1 else uid_b,
            has_label=answered,
            are_different=True,
        )

    def _choice(self, value: Any) -> tuple[float, float]:
        if isinstance(value, dict) and "value" in value:  # as Argilla's older exports have it
            value = value["value"]
        if value is None or value == "" or value != value:
            raise BadValue("value_missing", self._columns.choice)
        labels = self._labels.get(word_of(value)) if isinstance(value, str | int | float) else None
        if labels is None:
            reason = "choice_invalid" if isinstance(value, str) else "wrong_type"
            words = list(self._labels)
            expected = ", ".join(words[:-1]) + f" or {words[-1]}"
            raise BadValue(reason, f"{self._columns.choice}: found {str(value)[:40]!r}; expected {expected}")
        return labels

    def _image(self, record: dict[str, Any], column: str) -> bytes:
        """The bytes of an image: of the file that is named, or the value itself."""
        value = record[column]
        if value is None or value == "" or value == b"":
            raise BadValue("value_missing", column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if isinstance(value, str) and (found := _DATA_URL.fullmatch(value.strip())):
            return _from_base64(found[1], column)
        if isinstance(value, str):
            if len(value) > _LONGEST_PATH:
                raise BadValue("image_missing", f"{column} has {len(value)} characters; expected a path")
            return self._files.read(self._columns.image_file.format(caption_text(value)), column)
        if (isinstance(value, float) and value != value) or isinstance(value, list | bool) or value is None:
            raise BadValue("wrong_type", f"{column} is {type(value).__name__}; expected a path or an image")
        return self._files.read(self._columns.image_file.format(_id(record, column)), column)


def _from_base64(text: str, column: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadValue("image_undecodable", f"{column} is no valid base64 ({error})") from error


def _id(record: dict[str, Any], column: str) -> str:
    try:
        name = id_text(record[column])
    except BadValue as problem:
        reason, detail = problem.args
        raise BadValue(reason, f"{column} {detail}") from None
    if name is None:
        raise BadValue("value_missing", column)
    return name


def _caption(record: dict[str, Any], column: str) -> str:
    value = record[column]
    if value is None or value == "" or value != value:
        raise BadValue("value_missing", column)
    if not isinstance(value, str | bytes):
        raise BadValue("wrong_type", f"{column} is {type(value).__name__}; expected text")
    try:
        return caption_text(value)
    except BadValue as problem:
        reason, detail = problem.args
        raise BadValue(reason, f"{column} {detail}") from None
