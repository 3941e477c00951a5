"""Who is here: visitors who have agreed, found by the hash of their cookie; and forgetting them."""

import hashlib
import secrets
from dataclasses import dataclass

from ppd.studio.database import Database, now


@dataclass(frozen=True)
class Visitor:
    """Somebody who has agreed. `id` is what ingestion calls the user; `shared_as` a name, or None."""

    id: str
    shared_as: str | None


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def visitor_of(database: Database, cookie: str) -> Visitor | None:
    """The visitor whose browser this is, if they have agreed."""
    row = database.first("SELECT id, shared_as FROM visitors WHERE session = ?", _hashed(cookie))
    return Visitor(row["id"], row["shared_as"]) if row else None


def welcome(database: Database, cookie: str) -> Visitor:
    """Note that the visitor has agreed; a second time changes nothing."""
    with database.change():
        database.run(
            "INSERT INTO visitors (id, session, consented_at) VALUES (?, ?, ?) ON CONFLICT (session) DO NOTHING",
            f"studio-{secrets.token_hex(8)}",
            _hashed(cookie),
            now(),
        )
    visitor = visitor_of(database, cookie)
    if visitor is None:
        raise LookupError("a visitor who was just written")
    return visitor


def share(database: Database, visitor: Visitor, name: str | None) -> bool:
    """Let others mix with this taste under a name, or no longer. False: somebody else has that name."""
    with database.change():
        taken = database.first("SELECT id FROM visitors WHERE shared_as = ? AND id != ?", name, visitor.id)
        if name and taken is not None:
            return False
        database.run("UPDATE visitors SET shared_as = ? WHERE id = ?", name or None, visitor.id)
    return True


def forget(database: Database, visitor: Visitor) -> None:
    """Delete the visitor with their votes, showings, pictures and embedding; the freed pages are overwritten."""
    with database.change():
        # Showings first: they name pictures, and a picture goes only when nothing names it.
        database.run("DELETE FROM showings WHERE visitor = ?", visitor.id)
        database.run("DELETE FROM visitors WHERE id = ?", visitor.id)
    database.run("PRAGMA wal_checkpoint(TRUNCATE)")  # the log of earlier pages held them too
