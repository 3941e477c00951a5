"""Judging blind: which picture meets which, and what the visitor's verdicts add up to.

Mine meets the base's and somebody else's (the same adapter, given another's embedding), from the same noise and from
different noise; the sides are drawn by lot. Names of methods and pairings are those of `ppd.evaluation.plan`.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor

from ppd.studio.database import Database, now
from ppd.studio.drawings import Gone, keep
from ppd.studio.models import Models, Wish
from ppd.studio.showings import NewShowing, plan
from ppd.studio.taste import taste_of

MINE, BASE, OTHER = "ppd", "base", "ppd-shuffled"
SAME, INDEPENDENT = "same-seed", "independent"
A_JOB = 4
"""Comparisons prepared at once: eight pictures."""


@dataclass(frozen=True)
class Verdict:
    """outcome: 1 mine was preferred, 0 the opponent's, 0.5 no difference."""

    opponent: str
    pairing: str
    caption: str
    outcome: float
    mine: str
    theirs: str
    my_side: str


@dataclass(frozen=True)
class WinRate:
    """Of n verdicts `wins` for mine and `ties`; low and high bound the rate among the decided at 95 % (Wilson)."""

    n: int
    wins: int
    ties: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Ties count half."""
        return (self.wins + self.ties / 2) / self.n


def prepare(
    database: Database,
    models: Models,
    number: int,
    captions: Sequence[str],
    strangers: dict[str, Tensor],
) -> None:
    """Draw the pictures of a drawing of kind `comparisons` and line up its showings, all or nothing.

    n of the drawing counts pictures, two a comparison. Raises `Gone` when the visitor has taken all choices back.
    """
    row = database.first("SELECT * FROM drawings WHERE id = ? AND state = 'waiting'", number)
    if row is None:
        return
    taste = taste_of(database, models, row["visitor"])
    if taste is None:
        raise Gone("There is no choice of yours to draw by.")
    lot = random.Random(f"{row['id']} {database.setting('secret')}")
    n = row["n"] // 2
    kinds = [(opponent, pairing) for opponent in (BASE, OTHER) for pairing in (INDEPENDENT, SAME)]
    if not strangers:
        kinds = [(BASE, INDEPENDENT), (BASE, SAME)]
    meetings = [kinds[at % len(kinds)] for at in range(n)]
    lot.shuffle(meetings)
    rows = database.all(
        "SELECT caption FROM showings WHERE visitor = ? AND kind = 'comparison' ORDER BY id DESC LIMIT ?",
        *(row["visitor"], max(len(captions) - n, 0)),
    )
    lately = {shown["caption"] for shown in rows}
    fresh = [caption for caption in captions if caption not in lately]
    named = lot.sample(fresh, n) if len(fresh) >= n else lot.choices(list(captions), k=n)
    first = row["seed"]
    mine = [Wish(caption, first + at, taste.embedding) for at, caption in enumerate(named)]
    theirs = []
    for at, (caption, (opponent, pairing)) in enumerate(zip(named, meetings, strict=True)):
        somebody = lot.choice(sorted(strangers)) if opponent == OTHER else None
        seed = first + at if pairing == SAME else first + n + at
        theirs.append(Wish(caption, seed, strangers[somebody] if somebody else None))
    images = models.draw([*mine, *theirs])
    my_ids = keep(database, row, MINE, mine, models, images[:n])
    their_ids = keep(database, row, "opponent", theirs, models, images[n:])
    with database.change():
        if database.first("SELECT id FROM drawings WHERE id = ?", number) is None:
            return  # forgotten in the meantime
        for name, (opponent, _) in zip(their_ids, meetings, strict=True):
            database.run("UPDATE pictures SET model = ? WHERE id = ?", opponent, name)
        showings = []
        for caption, ours, other, (_, pairing) in zip(named, my_ids, their_ids, meetings, strict=True):
            left, right = lot.sample([ours, other], 2)
            showings.append(NewShowing(caption, left, right, pairing))
        plan(database, row["visitor"], "comparison", models.adapter, showings)
        database.run("UPDATE drawings SET state = 'done', done_at = ? WHERE id = ?", now(), number)


_VERDICTS = """
SELECT s.visitor, s.caption, s.how, s.adapter, s.left_picture, s.right_picture, s.shown_at, v.choice, v.voted_at,
       l.model AS left_model, l.seed AS left_seed, r.model AS right_model, r.seed AS right_seed, l.made
FROM votes v JOIN showings s ON s.id = v.showing JOIN pictures l ON l.id = s.left_picture
     JOIN pictures r ON r.id = s.right_picture
WHERE s.kind = 'comparison' AND v.undone_at IS NULL AND (? IS NULL OR s.visitor = ?) ORDER BY v.id
"""


def verdicts(database: Database, visitor: str) -> list[Verdict]:
    """A visitor's own, in order."""
    found = []
    for row in database.all(_VERDICTS, visitor, visitor):
        my_side = "left" if row["left_model"] == MINE else "right"
        other_side = "right" if my_side == "left" else "left"
        outcome = 0.5 if row["choice"] == "skip" else float(row["choice"] == my_side)
        pictures = row[f"{my_side}_picture"], row[f"{other_side}_picture"]
        found.append(Verdict(row[f"{other_side}_model"], row["how"], row["caption"], outcome, *pictures, my_side))
    return found


def win_rate(outcomes: Sequence[float]) -> WinRate:
    """Of at least one verdict."""
    wins, ties = outcomes.count(1.0), outcomes.count(0.5)
    decided = len(outcomes) - ties
    low, high = 0.0, 1.0
    if decided:
        interval = binomtest(wins, decided).proportion_ci(method="wilson")
        low, high = float(interval.low), float(interval.high)
    return WinRate(len(outcomes), wins, ties, low, high)


def rows_for_the_report(database: Database) -> list[str]:
    """All visitors' verdicts as lines of JSON: what `evaluations/human.jsonl` holds of this studio."""
    studio, lines = database.setting("id"), []
    for row in database.all(_VERDICTS, None, None):
        my_side, other_side = ("left", "right") if row["left_model"] == MINE else ("right", "left")
        line = {
            "studio": studio,
            "user_id": row["visitor"],
            "date": row["voted_at"],
            "method": MINE,
            "opponent": row[f"{other_side}_model"],
            "pairing": row["how"],
            "caption": row["caption"],
            "method_seed": row[f"{my_side}_seed"],
            "opponent_seed": row[f"{other_side}_seed"],
            "method_side": my_side,
            "outcome": 0.5 if row["choice"] == "skip" else float(row["choice"] == my_side),
            "adapter": row["adapter"],
            "base": json.loads(row["made"])["base"],
            "n_choices": json.loads(row["made"])["n_choices"],
        }
        lines.append(json.dumps(line))
    return lines
