"""What a visitor asked to see: rows in the database, done one by one by the queue, again after a restart."""

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppd.studio.database import Database, now
from ppd.studio.models import Models, Wish
from ppd.studio.taste import stored_taste, taste_of

SEEDS_OF_DRAWINGS = 1000
"""Noises of what is drawn for visitors begin here; the pool's lie below."""
MAX_STRENGTH = 3.0
PROFILE_CHARS = 60


class Gone(Exception):
    """What was asked for is no longer there; the message is for the visitor."""


@dataclass(frozen=True)
class Drawing:
    """A row of pictures. kind: `beside` (mine beside the base's) or `between` (from me to somebody else)."""

    id: int
    kind: str
    caption: str
    n: int
    strength: float
    other: str | None
    choices: str
    n_choices: int
    state: str
    trouble: str | None


@dataclass(frozen=True)
class Picture:
    """One that was drawn; the file is asked for by its id."""

    id: str
    model: str
    place: int


def ask(
    database: Database,
    visitor: str,
    kind: str,
    caption: str,
    *,
    n: int,
    choices: tuple[str, int],
    strength: float = 1.0,
    other: str | None = None,
    seed: int | None = None,
) -> int:
    """Write down what is to be drawn; seed None draws from noise that this visitor has not seen.

    choices: of `ppd.studio.taste.choices_of`.
    """
    with database.change():
        if seed is None:
            last = database.one(
                "SELECT coalesce(max(seed + n), ?) AS next FROM drawings WHERE visitor = ?", SEEDS_OF_DRAWINGS, visitor
            )
            seed = int(last["next"])
        done = database.run(
            "INSERT INTO drawings (visitor, kind, caption, seed, n, strength, other, choices, n_choices, asked_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(visitor, kind, caption, seed, n, strength, other, *choices, now()),
        )
        return int(done.lastrowid or 0)


def drawings(database: Database, visitor: str, kind: str) -> list[Drawing]:
    """Those of a kind, the latest first."""
    return [
        _drawing(row)
        for row in database.all("SELECT * FROM drawings WHERE visitor = ? AND kind = ? ORDER BY id DESC", visitor, kind)
    ]


def drawing(database: Database, visitor: str, number: int) -> Drawing | None:
    """One of this visitor's."""
    row = database.first("SELECT * FROM drawings WHERE id = ? AND visitor = ?", number, visitor)
    return _drawing(row) if row else None


def _drawing(row: sqlite3.Row) -> Drawing:
    return Drawing(**{name: row[name] for name in Drawing.__dataclass_fields__})


def pictures(database: Database, number: int) -> list[Picture]:
    """What a drawing holds, in order of place, mine before the base's."""
    rows = database.all("SELECT id, model, place FROM pictures WHERE drawing = ? ORDER BY place, model DESC", number)
    return [Picture(*row) for row in rows]


def n_pictures(database: Database, visitor: str) -> int:
    """How many were drawn for a visitor, or are about to be."""
    row = database.one(
        "SELECT (SELECT count(*) FROM pictures WHERE visitor = ?)"
        " + (SELECT coalesce(sum(n), 0) FROM drawings WHERE visitor = ? AND state = 'waiting') AS n",
        visitor,
        visitor,
    )
    return int(row["n"])


def do(database: Database, models: Models, number: int, strangers: dict[str, Tensor]) -> None:
    """Draw it, if it is still wanted. strangers: embeddings of those who may stand at the far end, by name.

    Raises `Gone` when what it needs is no longer there.
    """
    row = database.first("SELECT * FROM drawings WHERE id = ? AND state = 'waiting'", number)
    if row is None:
        return
    taste = taste_of(database, models, row["visitor"])
    if taste is None:
        raise Gone("There is no choice of yours to draw by.")
    seeds = range(row["seed"], row["seed"] + row["n"])
    if row["kind"] == "beside":
        mine = [Wish(row["caption"], seed, taste.embedding) for seed in seeds]
        base = [Wish(row["caption"], seed) for seed in seeds]
        images = models.draw([*mine, *base], row["strength"])
        keep(database, row, "ppd", mine, models, images[: len(mine)])
        keep(database, row, "base", base, models, images[len(mine) :])
    else:
        far = strangers.get(row["other"])
        if far is None:
            raise Gone("The other person is no longer here.")
        shares = torch.linspace(0, 1, row["n"]).tolist()
        wishes = [Wish(row["caption"], row["seed"], torch.lerp(taste.embedding, far, share)) for share in shares]
        keep(database, row, "between", wishes, models, models.draw(wishes, row["strength"]))
    with database.change():
        database.run(
            "UPDATE drawings SET state = 'done', done_at = ?, choices = ?, n_choices = ? WHERE id = ?",
            *(now(), taste.choices, taste.n_choices, number),
        )


def fail(database: Database, number: int, sentence: str) -> None:
    """Note that a drawing came to nothing, and what the visitor is told."""
    with database.change():
        database.run("UPDATE drawings SET state = 'failed', trouble = ? WHERE id = ?", sentence, number)


def keep(
    database: Database, row: sqlite3.Row, model: str, wishes: Sequence[Wish], models: Models, images: Sequence[bytes]
) -> list[str]:
    """Store pictures of a drawing; of one that was deleted while they were drawn, none. Returns their ids."""
    names = [secrets.token_hex(12) for _ in images]
    with database.change():
        database.run("DELETE FROM pictures WHERE drawing = ? AND model = ?", row["id"], model)
        for place, (name, wish, image) in enumerate(zip(names, wishes, images, strict=True)):
            made = models.made(strength=row["strength"], other=row["other"], n_choices=row["n_choices"])
            database.run(
                "INSERT INTO pictures (id, visitor, drawing, place, model, caption, seed, made, image)"
                " SELECT ?, visitor, id, ?, ?, ?, ?, ?, ? FROM drawings WHERE id = ?",
                *(name, place, model, wish.caption, wish.seed, made, image, row["id"]),
            )
    return names


def strangers(database: Database, models: Models, visitor: str) -> dict[str, Tensor]:
    """Whom a visitor may mix with, by name: other visitors who agreed to it, and people of the log."""
    rows = database.all("SELECT id, shared_as FROM visitors WHERE shared_as IS NOT NULL AND id != ?", visitor)
    shared = {str(row["shared_as"]): stored_taste(database, row["id"]) for row in rows}
    shape = models.ppd.adapter.embedding_shape
    named = {name: taste.embedding for name, taste in shared.items() if taste and taste.embedding.shape == shape}
    for user, groups in models.log.items():
        if user != visitor:
            named[f"{models.profiles[user][:PROFILE_CHARS] or 'somebody'} ({user})"] = groups[0]
    return named
