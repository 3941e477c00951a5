"""Judging blind, round by round, and what came out."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio import comparisons, showings
from ppd.studio.comparisons import BASE, INDEPENDENT, OTHER, SAME
from ppd.studio.taste import chosen
from ppd.studio.visitors import Visitor
from ppd.studio.web.desk import Desk
from ppd.studio.web.pages import Wrong, go, is_partial

Form = Mapping[str, str]


def judge(desk: Desk, request: Request) -> Response:
    """The comparison to judge, or what the judged ones say."""
    return judge_page(desk, request, desk.known(request))


def begin_round(desk: Desk, request: Request, form: Form) -> Response:
    """Have the pictures of a round drawn."""
    visitor = desk.known(request)
    enough = desk.studio.limits.enough_choices
    if _n_choices(desk, visitor) < enough:
        raise Wrong(422, f"Please choose {enough} times first.")
    desk.studio.begin_round(visitor)
    return judge_page(desk, request, visitor) if is_partial(request) else go(request, "/judge")


def judge_page(desk: Desk, request: Request, visitor: Visitor, said: str = "") -> Response:
    """A comparison while there is one; while some are drawn, how long that takes; else the verdict."""
    studio = desk.studio
    told = showings.answers(studio.database, visitor.id, "comparison")
    a_round = studio.limits.comparisons_a_round
    content: dict[str, object] = {"visitor": visitor, "said": said, "n": len(told), "a_round": a_round}
    showing = studio.next_comparison(visitor)
    if showing is not None:
        last = told[-1].vote if told and len(told) % a_round else None
        ahead = studio.comparison_ahead(visitor)
        return desk.page(request, "judge.html", url="/judge", showing=showing, last=last, ahead=ahead, **content)
    waiting = studio.comparisons_waiting(visitor)
    if waiting:
        return desk.page(request, "judge_wait.html", url="/judge", place=studio.waiting(waiting[0]), **content)
    mine = comparisons.verdicts(studio.database, visitor.id)
    found = [
        (opponent, pairing, comparisons.win_rate(outcomes))
        for opponent in (BASE, OTHER)
        for pairing in ("", INDEPENDENT, SAME)
        if (outcomes := [v.outcome for v in mine if v.opponent == opponent and pairing in ("", v.pairing)])
    ]
    return desk.page(
        request,
        "verdict.html",
        url="/judge",
        verdicts=mine,
        rates=found,
        enough=_n_choices(desk, visitor) >= studio.limits.enough_choices,
        may_judge=len(mine) + a_round <= studio.limits.max_comparisons,
        **content,
    )


def _n_choices(desk: Desk, visitor: Visitor) -> int:
    return len(chosen(showings.answers(desk.studio.database, visitor.id, "choice")))
