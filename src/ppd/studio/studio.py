"""The studio without HTTP: what each page needs, and what each wish sets in motion."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ppd.studio import comparisons, drawings
from ppd.studio.choosing import ActiveChooser, Asked, Chooser, Floats, Next, prior
from ppd.studio.database import Database
from ppd.studio.drawings import Drawing
from ppd.studio.limits import Limits
from ppd.studio.models import Models
from ppd.studio.pool import Captions, Pool, Preparation
from ppd.studio.queue import BACKGROUND, Place, Queue
from ppd.studio.showings import Answer, NewShowing, Showing, answers, n_planned, open_showing, show
from ppd.studio.taste import choices_of, chosen
from ppd.studio.visitors import Visitor, forget

FIRST_LOOK = (2, 4)
"""Captions, and pictures of each, that a visitor sees after their choices: eight."""
STEPS_BETWEEN = 5
STILL_WAITING = "Some of your pictures still wait to be drawn; ask again when they are there."

MakeChooser = Callable[[Pool, Floats], Chooser]


class Refused(Exception):
    """A limit was met; the message is for the visitor."""


@dataclass
class Studio:
    """Everything behind the pages. `start` it, then let threads call it."""

    database: Database
    models: Models
    captions: Captions
    folder: Path
    limits: Limits = field(default_factory=Limits)
    make_chooser: MakeChooser = ActiveChooser
    is_broken: bool = False
    """Whether the pool could not be prepared, so that there will be nothing to choose between."""
    _pool: Pool | None = None
    _chooser: Chooser | None = None
    _pairs: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    _n_left: int = 0
    _lot: random.Random = field(default_factory=random.SystemRandom)
    _planning: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.queue = Queue(self.limits.max_queue, self.limits.max_waiting)

    def start(self) -> None:
        """Work off the queue, first of all the pool where it is not complete."""
        preparation = Preparation(self.models, self.database, self.captions.pool, self.folder / "pools")
        pieces = preparation.pieces()
        self._n_left = len(pieces)
        for at in pieces:
            self.queue.add(BACKGROUND, f"pool {at}", partial(self._prepare, preparation, at))
        if not pieces:
            self._open(preparation)
        self.queue.start()

    def close(self) -> None:
        """Finish the job that runs; leave the file whole."""
        self.queue.close()
        self.database.close()

    def _prepare(self, preparation: Preparation, at: int) -> None:
        try:
            preparation.prepare(at)
        except BaseException:
            self.is_broken = True
            raise
        self._n_left -= 1
        if self._n_left == 0:
            self._open(preparation)

    def _open(self, preparation: Preparation) -> None:
        pool = preparation.finish()
        people = [group.flatten().double().numpy() for groups in self.models.log.values() for group in groups]
        self._pairs = {
            pair: (at, forwards)
            for at, (x, y) in enumerate(zip(pool.first, pool.second, strict=True))
            for pair, forwards in (((x, y), True), ((y, x), False))
        }
        self._chooser = self.make_chooser(pool, prior(people, pool.directions.shape[1]))
        self._pool = pool

    @property
    def n_prepared(self) -> tuple[int, int]:
        """How many captions of the pool are prepared, and of how many."""
        n = len(self.captions.pool)
        return (n, n) if self._pool is not None else (n - self._n_left, n)

    @property
    def is_open(self) -> bool:
        """Whether there is something to choose between."""
        return self._pool is not None

    # Choosing

    def next_choice(self, visitor: Visitor) -> Showing | None:
        """What the visitor chooses between now; None when they have chosen all they may."""
        found = open_showing(self.database, visitor.id, "choice")
        if found is not None:
            return found
        told = answers(self.database, visitor.id, "choice")
        following = self._following(told)
        if len(chosen(told)) >= self.limits.max_choices or following is None or self._pool is None:
            return None
        left, right = self._lot.sample([self._pool.first[following.pair], self._pool.second[following.pair]], 2)
        new = NewShowing(self._pool.captions[following.pair], left, right, following.how)
        return show(self.database, visitor.id, "choice", self.models.adapter, new)

    def pictures_ahead(self, visitor: Visitor, showing: Showing) -> list[str]:
        """Those of the pairs that may come after this one, so that a browser has them when they do."""
        if self._pool is None:
            return []
        told = answers(self.database, visitor.id, "choice")
        ahead: dict[str, None] = {}
        for side in ("left", "right"):
            following = self._following([*told, Answer(0, showing, side)])
            if following is not None:
                ahead |= dict.fromkeys((self._pool.first[following.pair], self._pool.second[following.pair]))
        return list(ahead)

    def _following(self, told: list[Answer]) -> Next | None:
        asked = []
        for answer in told:
            pair, forwards = self._pairs.get((answer.showing.left, answer.showing.right), (None, True))
            if pair is None:
                continue  # chosen from an earlier pool
            first = "left" if forwards else "right"
            outcome = "skip" if answer.choice == "skip" else "first" if answer.choice == first else "second"
            asked.append(Asked(pair, outcome))  # type: ignore[arg-type]
        return self._chooser(asked) if self._chooser is not None else None

    # Seeing

    def first_look(self, visitor: Visitor) -> None:
        """Ask for the first pictures of the visitor's choices as they are now, unless they were asked for."""
        choices, _ = choices_of(self.database, self.models, visitor.id)
        with self._planning:
            asked = drawings.drawings(self.database, visitor.id, "beside")
            if any(drawing.choices == choices for drawing in asked):
                return
            unseen = self._unseen_captions(visitor)
            lot = random.Random(f"{visitor.id} {choices}")
            n_captions, n_each = FIRST_LOOK
            for caption in lot.sample(unseen, min(n_captions, len(unseen))):
                self._ask(visitor, "beside", caption, n=n_each)

    def draw(self, visitor: Visitor, caption: str, strength: float) -> None:
        """Draw a caption of the visitor's own, mine beside the base's."""
        self._ask(visitor, "beside", caption, n=FIRST_LOOK[1], strength=strength)

    def between(self, visitor: Visitor, caption: str, other: str) -> None:
        """Draw what lies between the visitor and somebody else."""
        if other not in drawings.strangers(self.database, self.models, visitor.id):
            raise Refused("Choose somebody from the list.")
        self._ask(visitor, "between", caption, n=STEPS_BETWEEN, other=other)

    def strangers(self, visitor: Visitor) -> list[str]:
        """Whom the visitor may mix with, by name: people who are here first, then some of the log."""
        return list(drawings.strangers(self.database, self.models, visitor.id))[: self.limits.max_listed]

    def waiting(self, drawing: Drawing) -> Place | None:
        """Where a drawing is in the queue, into which it is put again if a restart has emptied it."""
        if drawing.state != "waiting":
            return None
        row = self.database.first("SELECT visitor FROM drawings WHERE id = ?", drawing.id)
        if row is not None:
            self._submit(str(row["visitor"]), drawing.id, drawing.kind)
        return self.queue.place(f"drawing {drawing.id}")

    def _ask(
        self,
        visitor: Visitor,
        kind: str,
        caption: str,
        *,
        n: int,
        strength: float = 1.0,
        other: str | None = None,
    ) -> None:
        n_new = 2 * n if kind == "beside" else n
        if drawings.n_pictures(self.database, visitor.id) + n_new > self.limits.max_pictures:
            raise Refused(f"You have had {self.limits.max_pictures} pictures drawn, which is all that one visitor may.")
        if len(self._waiting_of(visitor)) >= self.limits.max_waiting:
            raise Refused(STILL_WAITING)
        choices = choices_of(self.database, self.models, visitor.id)
        number = drawings.ask(
            self.database, visitor.id, kind, caption, n=n, choices=choices, strength=strength, other=other
        )
        if not self._submit(visitor.id, number, kind):
            with self.database.change():
                self.database.run("DELETE FROM drawings WHERE id = ?", number)
            raise Refused("Many people want pictures at this moment. Please try again in a minute.")

    def _submit(self, visitor: str, number: int, kind: str) -> bool:
        return self.queue.add(visitor, f"drawing {number}", partial(self._work, visitor, number, kind))

    def _work(self, visitor: str, number: int, kind: str) -> None:
        strangers = drawings.strangers(self.database, self.models, visitor)
        try:
            if kind == "comparisons":
                comparisons.prepare(self.database, self.models, number, self.captions.blind, strangers)
            else:
                drawings.do(self.database, self.models, number, strangers)
        except drawings.Gone as gone:
            drawings.fail(self.database, number, str(gone))
        except BaseException:
            drawings.fail(self.database, number, "It could not be drawn; the studio's own log says why.")
            raise

    def _waiting_of(self, visitor: Visitor) -> list[Drawing]:
        return [
            drawing
            for kind in ("beside", "between", "comparisons")
            for drawing in drawings.drawings(self.database, visitor.id, kind)
            if drawing.state == "waiting"
        ]

    def _unseen_captions(self, visitor: Visitor) -> list[str]:
        """Captions of the pool that the visitor has not chosen by."""
        seen = {answer.showing.caption for answer in answers(self.database, visitor.id, "choice")}
        return [caption for caption in self.captions.pool if caption not in seen] or list(self.captions.pool)

    # Judging

    def next_comparison(self, visitor: Visitor) -> Showing | None:
        """The next one of this round; None when it is over, or when its pictures are still being drawn."""
        return show(self.database, visitor.id, "comparison", self.models.adapter, None)

    def comparison_ahead(self, visitor: Visitor) -> int | None:
        """The one after the one that is open, so that a browser has its pictures."""
        row = self.database.first(
            "SELECT id FROM showings WHERE visitor = ? AND kind = 'comparison' AND state = 'planned' ORDER BY id",
            visitor.id,
        )
        return int(row["id"]) if row else None

    def begin_round(self, visitor: Visitor) -> None:
        """Have the comparisons of a round drawn, unless there are some to judge."""
        with self._planning:
            if n_planned(self.database, visitor.id) or self.comparisons_waiting(visitor):
                return
            n_judged = len(answers(self.database, visitor.id, "comparison"))
            if n_judged + self.limits.comparisons_a_round > self.limits.max_comparisons:
                raise Refused(f"You have judged {n_judged} pairs, which is all that one visitor may. Thank you!")
            n_jobs = self.limits.comparisons_a_round // comparisons.A_JOB
            if len(self._waiting_of(visitor)) + n_jobs > self.limits.max_waiting:
                raise Refused(STILL_WAITING)  # rather than begin half a round
            for _ in range(n_jobs):
                self._ask(visitor, "comparisons", "", n=2 * comparisons.A_JOB)

    def comparisons_waiting(self, visitor: Visitor) -> list[Drawing]:
        """What is being drawn for this round, the first first."""
        asked = drawings.drawings(self.database, visitor.id, "comparisons")
        return [drawing for drawing in reversed(asked) if drawing.state == "waiting"]

    def forget(self, visitor: Visitor) -> None:
        """Delete all of a visitor, what is being drawn for them included."""
        self.queue.drop(visitor.id)
        forget(self.database, visitor)
