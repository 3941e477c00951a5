"""One SQLite file that holds everything the studio knows. A change is on disk (WAL, synced) when it is answered."""

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ppd.errors import InputError

FORMAT = 1
SCHEMA = """
CREATE TABLE studio (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE visitors (
    id TEXT PRIMARY KEY,              -- what ingestion calls the user
    session TEXT NOT NULL UNIQUE,     -- hash of the cookie
    consented_at TEXT NOT NULL,
    shared_as TEXT                    -- the name under which others may mix with this taste; NULL: nobody may
);

CREATE TABLE drawings (               -- what a visitor asked to see
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    visitor TEXT NOT NULL REFERENCES visitors ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('beside', 'between', 'comparisons')),
    caption TEXT NOT NULL,
    seed INTEGER NOT NULL,
    n INTEGER NOT NULL,
    strength REAL NOT NULL,
    other TEXT,                       -- between: who stands at the far end
    choices TEXT NOT NULL,            -- names the choices that it is drawn by
    n_choices INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
    trouble TEXT,
    asked_at TEXT NOT NULL,
    done_at TEXT
);

CREATE TABLE pictures (
    id TEXT PRIMARY KEY,              -- random: it says nothing of what is shown
    visitor TEXT REFERENCES visitors ON DELETE CASCADE,   -- NULL: of the pool that everybody chooses from
    drawing INTEGER REFERENCES drawings ON DELETE CASCADE,
    place INTEGER,                    -- within its drawing
    model TEXT NOT NULL,              -- base, ppd, ppd-shuffled (for somebody else), between
    caption TEXT NOT NULL,
    seed INTEGER NOT NULL,            -- with the caption it decides the prior's noise
    made TEXT NOT NULL,               -- JSON: base, adapter, sampling, for whom
    image BLOB NOT NULL               -- PNG
);
CREATE INDEX pictures_of_drawings ON pictures (drawing);

CREATE TABLE showings (               -- two pictures before a visitor's eyes
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    visitor TEXT NOT NULL REFERENCES visitors ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('choice', 'comparison')),
    state TEXT NOT NULL CHECK (state IN ('planned', 'open', 'answered', 'withdrawn')),
    caption TEXT NOT NULL,
    left_picture TEXT NOT NULL REFERENCES pictures,
    right_picture TEXT NOT NULL REFERENCES pictures,
    how TEXT NOT NULL,                -- choice: fixed, active, random; comparison: independent, same-seed
    adapter TEXT NOT NULL,
    shown_at TEXT
);
CREATE UNIQUE INDEX one_open_showing ON showings (visitor, kind) WHERE state = 'open';

CREATE TABLE votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    showing INTEGER NOT NULL REFERENCES showings ON DELETE CASCADE,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'skip')),
    voted_at TEXT NOT NULL,
    undone_at TEXT
);
CREATE UNIQUE INDEX one_vote_a_showing ON votes (showing) WHERE undone_at IS NULL;

CREATE TABLE embeddings (             -- what the vision-language model made of a visitor's choices
    visitor TEXT PRIMARY KEY REFERENCES visitors ON DELETE CASCADE,
    choices TEXT NOT NULL,            -- names the choices, the model and the adapter: another name, another embedding
    n_choices INTEGER NOT NULL,
    shape TEXT NOT NULL,
    numbers BLOB NOT NULL,            -- float32
    profile TEXT NOT NULL             -- what it wrote
);
"""


class Database:
    """The file, open; one connection that threads take turns with. Other processes may read and write it as well."""

    def __init__(self, file: Path) -> None:
        """Open or make it. Raises `InputError` for a file that is something else."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise InputError(f"no database of a studio ({error})", file=file, fix="Name another file") from error

    def _prepare(self) -> None:
        with self.change():
            (version,) = self.one("PRAGMA user_version")
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                for key in ("id", "secret"):
                    self.run("INSERT INTO studio VALUES (?, ?)", key, secrets.token_hex(16))
                self._connection.execute(f"PRAGMA user_version = {FORMAT}")
            elif version != FORMAT:
                raise InputError(f"a studio's file of format {version}; this version reads {FORMAT}", file=self.file)

    def close(self) -> None:
        """Move what lies in the write-ahead log into the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction: all of the block is on disk at its end, or nothing of it. It may not be nested."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, sql: str, *values: object) -> sqlite3.Cursor:
        """One statement within a `change`."""
        with self._lock:
            return self._connection.execute(sql, values)

    def all(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def first(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, if it has one."""
        with self._lock:
            row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return row

    def one(self, sql: str, *values: object) -> sqlite3.Row:
        """The first row of a query that always has one."""
        row = self.first(sql, *values)
        if row is None:
            raise LookupError(sql)
        return row

    def setting(self, key: str) -> str:
        """`id`: names this studio; `secret`: signs its tokens."""
        return str(self.one("SELECT value FROM studio WHERE key = ?", key)["value"])


def now() -> str:
    """The time as it is written down: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
