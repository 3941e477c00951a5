"""What leaves the studio's own file: a snapshot that ingestion reads, and the blind verdicts for the report.

Both are written as wholes, so that what was taken back or forgotten is gone from the next writing.
"""

import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from ppd.files import atomic_path
from ppd.preferences.studio import SNAPSHOT
from ppd.studio.comparisons import rows_for_the_report
from ppd.studio.database import Database

_CHOICES = """
CREATE TABLE out.choices AS
SELECT v.id AS vote, s.visitor AS user, s.caption, s.left_picture, s.right_picture, v.choice, s.how,
       s.adapter, s.shown_at, v.voted_at
FROM main.votes v JOIN main.showings s ON s.id = v.showing
WHERE s.kind = 'choice' AND v.undone_at IS NULL ORDER BY v.id
"""
_PICTURES = """
CREATE TABLE out.pictures AS SELECT id, seed, made, image FROM main.pictures
WHERE id IN (SELECT left_picture FROM out.choices UNION SELECT right_picture FROM out.choices)
"""


def write_snapshot(file: Path, folder: Path) -> Path:
    """The choices of the studio's file, and the pictures they are about, as `studio.sqlite` in `folder`.

    It holds nothing by which a browser could be recognised, and does not change while it is read.
    """
    target = folder / SNAPSHOT
    with atomic_path(target) as fresh:
        connection = sqlite3.connect(file, timeout=30)
        try:
            connection.execute("ATTACH ? AS out", (str(fresh),))
            with connection:
                connection.execute(_CHOICES)
                connection.execute(_PICTURES)
                connection.execute("PRAGMA out.user_version = 1")
        finally:
            connection.close()
    return target


def write_verdicts(database: Database, file: Path) -> None:
    """Put this studio's verdicts into the lines of `file`; lines of other studios stay."""
    studio = database.setting("id")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    others = [line for line in lines if line.strip() and json.loads(line).get("studio") != studio]
    fresh_lines = [*others, *rows_for_the_report(database)]
    if fresh_lines == lines:
        return
    with atomic_path(file) as fresh:
        fresh.write_text("".join(line + "\n" for line in fresh_lines), encoding="utf-8")


class Publisher:
    """Writes both some seconds after the last change, so that a burst of votes is one writing; or at once."""

    def __init__(self, write: Callable[[], None], pause_s: float = 5.0) -> None:
        self._write, self._pause_s = write, pause_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def soon(self) -> None:
        """Something has changed."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(self._pause_s, self.at_once)
                self._timer.daemon = True
                self._timer.start()

    def at_once(self) -> None:
        """Write now."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._write()
