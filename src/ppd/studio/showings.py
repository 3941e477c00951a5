"""Two pictures before a visitor's eyes, and the one answer to them, whatever tabs and double clicks do.

A showing is open until it is answered; a visitor has one open showing of a kind, so two tabs show the same. An answer
to a showing that is not open changes nothing: the second click, the stale tab and the message sent twice are all that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppd.studio.database import Database, now

Kind = Literal["choice", "comparison"]
Side = Literal["left", "right", "skip"]


@dataclass(frozen=True)
class NewShowing:
    """Ids of the two pictures as they lie; how: why just these two (see `ppd.studio.database`)."""

    caption: str
    left: str
    right: str
    how: str


@dataclass(frozen=True)
class Showing:
    """As it is stored."""

    id: int
    caption: str
    left: str
    right: str
    how: str


@dataclass(frozen=True)
class Answer:
    """A vote that counts, with what it was about. choice: left, right or skip."""

    vote: int
    showing: Showing
    choice: Side


_COLUMNS = "s.id, s.caption, s.left_picture, s.right_picture, s.how"


def open_showing(database: Database, visitor: str, kind: Kind) -> Showing | None:
    """The showing that waits for an answer."""
    row = database.first(
        f"SELECT {_COLUMNS} FROM showings s WHERE visitor = ? AND kind = ? AND state = 'open'", visitor, kind
    )
    return Showing(*row) if row else None


def show(database: Database, visitor: str, kind: Kind, adapter: str, new: NewShowing | None) -> Showing | None:
    """The open showing; where there is none, the next planned one, or else `new`. None: there is none of them."""
    with database.change():
        if (found := open_showing(database, visitor, kind)) is not None:
            return found
        planned = database.first(
            "SELECT id FROM showings WHERE visitor = ? AND kind = ? AND state = 'planned' ORDER BY id", visitor, kind
        )
        if planned is not None:
            database.run("UPDATE showings SET state = 'open', shown_at = ? WHERE id = ?", now(), planned["id"])
        elif new is not None:
            _insert(database, visitor, kind, adapter, new, "open")
        return open_showing(database, visitor, kind)


def plan(database: Database, visitor: str, kind: Kind, adapter: str, new: Sequence[NewShowing]) -> None:
    """Line up showings, in this order; within a change."""
    for showing in new:
        _insert(database, visitor, kind, adapter, showing, "planned")


def _insert(database: Database, visitor: str, kind: Kind, adapter: str, new: NewShowing, state: str) -> None:
    database.run(
        "INSERT INTO showings (visitor, kind, state, caption, left_picture, right_picture, how, adapter, shown_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(visitor, kind, state, new.caption, new.left, new.right, new.how, adapter),
        now() if state == "open" else None,
    )


def vote(database: Database, visitor: str, showing: int, choice: Side) -> bool:
    """Count the answer to an open showing of this visitor. False: it was not open, and nothing changed."""
    with database.change():
        opened = database.run(
            "UPDATE showings SET state = 'answered' WHERE id = ? AND visitor = ? AND state = 'open'", showing, visitor
        )
        if opened.rowcount == 0:
            return False
        database.run("INSERT INTO votes (showing, choice, voted_at) VALUES (?, ?, ?)", showing, choice, now())
    return True


def undo(database: Database, visitor: str, vote: int) -> bool:
    """Take back the visitor's last vote: its showing is open again. False: it was not the last, and nothing changed.

    A round of comparisons that is over stays as it is. The vote stays in the file, marked, and counts nowhere; the
    showing that had come after it is withdrawn.
    """
    with database.change():
        last = database.first(
            "SELECT v.id, v.showing, s.kind FROM votes v JOIN showings s ON s.id = v.showing"
            " WHERE s.visitor = ? AND v.undone_at IS NULL"
            " AND s.kind = (SELECT t.kind FROM votes w JOIN showings t ON t.id = w.showing WHERE w.id = ?)"
            " ORDER BY v.id DESC",
            visitor,
            vote,
        )
        if last is None or last["id"] != vote:
            return False
        if last["kind"] == "comparison" and open_showing(database, visitor, "comparison") is None:
            return False  # the round is over, and the visitor knows by now which was which
        later = "withdrawn" if last["kind"] == "choice" else "planned"
        database.run("UPDATE votes SET undone_at = ? WHERE id = ?", now(), vote)
        database.run(
            "UPDATE showings SET state = ? WHERE visitor = ? AND kind = ? AND state = 'open'",
            *(later, visitor, last["kind"]),
        )
        database.run("UPDATE showings SET state = 'open', shown_at = ? WHERE id = ?", now(), last["showing"])
    return True


def answers(database: Database, visitor: str, kind: Kind) -> list[Answer]:
    """The votes that count, in order."""
    rows = database.all(
        f"SELECT v.id AS vote, v.choice, {_COLUMNS} FROM votes v JOIN showings s ON s.id = v.showing"
        " WHERE s.visitor = ? AND s.kind = ? AND v.undone_at IS NULL ORDER BY v.id",
        visitor,
        kind,
    )
    return [Answer(row["vote"], Showing(*tuple(row)[2:]), row["choice"]) for row in rows]


def n_planned(database: Database, visitor: str) -> int:
    """Comparisons that are lined up or open."""
    row = database.one(
        "SELECT count(*) AS n FROM showings WHERE visitor = ? AND kind = 'comparison' AND state IN ('planned', 'open')",
        visitor,
    )
    return int(row["n"])
