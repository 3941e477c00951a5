"""Reader of a studio's snapshot: the choices that visitors of `ppd studio` made, after the shards beside it, if any.

So new people join the log that is there. A snapshot is one SQLite file with the tables `choices` and `pictures`.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from ppd.errors import InputError
from ppd.preferences.pick_a_pic import PickAPic
from ppd.preferences.rows import BATCH_ROWS, Batch, Position, RawRow, Refusal

SNAPSHOT = "studio.sqlite"
FIRST_RANKING = 1 << 62
"""Ids of the studio's choices begin here, so that they are nobody else's."""
_LABELS = {"left": (1.0, 0.0), "right": (0.0, 1.0)}
_QUERY = """
SELECT c.vote, c.user, c.caption, c.choice, c.voted_at, l.image AS left_image, r.image AS right_image
FROM choices c LEFT JOIN pictures l ON l.id = c.left_picture LEFT JOIN pictures r ON r.id = c.right_picture
ORDER BY c.vote LIMIT -1 OFFSET ?
"""


@dataclass(frozen=True)
class Studio:
    """The snapshot in a folder, and the shards of Pick-a-Pic beside it. What was skipped has no label."""

    root: Path
    files: tuple[Path, ...]
    n_rows: int
    log: PickAPic | None

    @classmethod
    def open(cls, root: Path) -> Self:
        """Raises `InputError` for a folder without a snapshot, or one that cannot be read."""
        snapshot = root / SNAPSHOT
        if not snapshot.is_file():
            raise InputError(
                "no snapshot of a studio here",
                file=snapshot,
                fix="Run `ppd studio` with this setting, or once `ppd studio --publish`",
            )
        log = PickAPic.open(root) if any(root.rglob("*.parquet")) else None
        with closing(_connect(snapshot)) as connection:
            try:
                (n_choices,) = connection.execute("SELECT count(*) FROM choices").fetchone()
                connection.execute(_QUERY, (0,)).fetchone()
            except sqlite3.DatabaseError as error:
                raise InputError(f"not a snapshot of a studio ({error})", file=snapshot) from error
        files = (*(log.files if log else ()), snapshot)
        return cls(root, files, (log.n_rows if log else 0) + int(n_choices), log)

    def batches(self, start: Position) -> Iterator[Batch]:
        """Batches of the shards, then of the studio's choices in the order in which they were made."""
        last = len(self.files) - 1
        if self.log is not None and start.file < last:
            yield from self.log.batches(start)
        first = start.row if start.file == last else 0
        if start.file > last:
            return
        with closing(_connect(self.files[last])) as connection:
            connection.row_factory = sqlite3.Row
            cursor = connection.execute(_QUERY, (first,))
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield Batch([_row(first + at, row) for at, row in enumerate(rows)], Position(last, first + len(rows)))
                first += len(rows)


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def _row(at: int, row: sqlite3.Row) -> RawRow | Refusal:
    images = row["left_image"], row["right_image"]
    for column in ("user", "caption"):
        if isinstance(row[column], bytes):
            return Refusal(SNAPSHOT, at, "text_not_utf8", f"{column} is no text")
    if row["choice"] not in ("left", "right", "skip"):
        return Refusal(SNAPSHOT, at, "choice_invalid", f"found {row['choice']!r}; expected left, right or skip")
    if not all(isinstance(image, bytes) for image in images):
        return Refusal(SNAPSHOT, at, "image_missing", f"vote {row['vote']}: no picture of that id")
    try:
        moment = datetime.fromisoformat(row["voted_at"])
    except (TypeError, ValueError):
        return Refusal(SNAPSHOT, at, "value_missing", f"voted_at is {row['voted_at']!r}; expected a time")
    uid_left, uid_right = (hashlib.sha256(image).hexdigest()[:32] for image in images)
    decided = row["choice"] != "skip"
    label_left, label_right = _LABELS.get(row["choice"], (0.5, 0.5))
    return RawRow(
        file=SNAPSHOT,
        row=at,
        ranking_id=FIRST_RANKING + int(row["vote"]),
        user_id=row["user"],
        caption=row["caption"],
        created_us=int(moment.timestamp() * 1_000_000),
        uid_0=uid_left,
        uid_1=uid_right,
        image_0=images[0],
        image_1=images[1],
        label_0=label_left,
        label_1=label_right,
        best_uid=uid_left if label_left > label_right else uid_right,
        has_label=decided,
        are_different=True,
    )
