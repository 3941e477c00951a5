"""A visitor's choices as the vision-language model is told them, and the embedding that it makes of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppd.studio.database import Database
from ppd.studio.models import Models
from ppd.studio.showings import Answer, answers
from ppd.users.support import Pair


@dataclass(frozen=True)
class Taste:
    """embedding [rows, components], of n_choices choices that `choices` names; profile: what the model wrote."""

    embedding: Tensor
    choices: str
    n_choices: int
    profile: str


def chosen(told: Sequence[Answer]) -> list[Answer]:
    """Without what was skipped."""
    return [answer for answer in told if answer.choice != "skip"]


def choices_of(database: Database, models: Models, visitor: str) -> tuple[str, int]:
    """A name of the visitor's choices as they are now and of all else that their embedding depends on; how many."""
    told = chosen(answers(database, visitor, "choice"))
    return _key(told, models), len(told)


def stored_taste(database: Database, visitor: str) -> Taste | None:
    """What was last made of the visitor's choices, be they others by now."""
    row = database.first("SELECT * FROM embeddings WHERE visitor = ?", visitor)
    if row is None:
        return None
    numbers = torch.from_numpy(np.frombuffer(row["numbers"], dtype=np.float32).copy())
    shape = json.loads(row["shape"])
    return Taste(numbers.reshape(shape), row["choices"], row["n_choices"], row["profile"])


def taste_of(database: Database, models: Models, visitor: str) -> Taste | None:
    """The embedding of the visitor's choices as they are now, made anew when they are others; None without any."""
    told = chosen(answers(database, visitor, "choice"))
    if not told:
        return None
    key = _key(told, models)
    stored = stored_taste(database, visitor)
    if stored is None or stored.choices != key:
        pairs = [_pair(database, answer) for answer in told]
        embeddings, profiles = models.read([pairs])
        embedding = embeddings[0].float().contiguous()
        with database.change():
            # A visitor who was forgotten in the meantime stays forgotten.
            database.run(
                "INSERT OR REPLACE INTO embeddings SELECT id, ?, ?, ?, ?, ? FROM visitors WHERE id = ?",
                *(key, len(told), json.dumps(list(embedding.shape)), embedding.numpy().tobytes(), profiles[0]),
                visitor,
            )
        stored = stored_taste(database, visitor)
    return stored


def _key(told: Sequence[Answer], models: Models) -> str:
    what = [[answer.vote, answer.choice] for answer in told]
    return hashlib.sha256(json.dumps([what, models.reading]).encode()).hexdigest()


def _pair(database: Database, answer: Answer) -> Pair:
    left, right = (picture(database, name) for name in (answer.showing.left, answer.showing.right))
    preferred, rejected = (left, right) if answer.choice == "left" else (right, left)
    return Pair(answer.showing.caption, preferred, rejected)


def picture(database: Database, name: str) -> bytes:
    """A picture's file. Raises LookupError when there is no such picture."""
    return bytes(database.one("SELECT image FROM pictures WHERE id = ?", name)["image"])
