"""Choosing between two pictures; votes on comparisons come in here too."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio import showings
from ppd.studio.taste import chosen
from ppd.studio.visitors import Visitor
from ppd.studio.web.desk import Desk
from ppd.studio.web.judge import judge_page
from ppd.studio.web.pages import Wrong, go, is_partial, number
from ppd.studio.web.see import see_page

Form = Mapping[str, str]
OLD = "That pair was answered already, so this answer was not counted."


def choose(desk: Desk, request: Request) -> Response:
    """The pair to choose from."""
    return _choose_page(desk, request, desk.known(request), more="more" in request.query_params)


def _choose_page(desk: Desk, request: Request, visitor: Visitor, *, more: bool, said: str = "") -> Response:
    """The next pair; or the pictures, when enough were chosen and no more is wanted."""
    studio, limits = desk.studio, desk.studio.limits
    if not studio.is_open:
        if studio.is_broken:
            raise Wrong(500, "The first pictures could not be drawn; the studio's own log says why.")
        done, total = studio.n_prepared
        return desk.page(request, "preparing.html", url="/choose", visitor=visitor, done=done, total=total)
    told = showings.answers(studio.database, visitor.id, "choice")
    n = len(chosen(told))
    if n >= limits.max_choices or (n >= limits.enough_choices and not more):
        return see_page(desk, request, visitor, said=said)
    showing = studio.next_choice(visitor)
    if showing is None and n >= limits.enough_choices:
        return see_page(desk, request, visitor, said="You have seen every pair that there is.")
    if showing is None:
        raise Wrong(410, "You have skipped every pair that there is. Take the last answer back, or be forgotten.")
    return desk.page(
        request,
        "choose.html",
        url="/choose?more" if more else "/choose",
        visitor=visitor,
        showing=showing,
        n=n,
        enough=limits.enough_choices,
        limit=limits.max_choices,
        last=told[-1].vote if told else None,
        more=more,
        said=said,
    )


def ahead(desk: Desk, request: Request) -> Response:
    """Pictures of the pairs that may come next, so that the browser has them when they do, and the studio the pair."""
    visitor = desk.known(request)
    showing = showings.open_showing(desk.studio.database, visitor.id, "choice")
    pictures = desk.studio.pictures_ahead(visitor, showing) if showing is not None else []
    return desk.page(request, "ahead.html", ahead=pictures)


def vote(desk: Desk, request: Request, form: Form) -> Response:
    """Count an answer once, and show what comes next."""
    visitor = desk.known(request)
    showing, choice = number(form, "showing"), form.get("choice", "")
    if choice not in ("left", "right", "skip"):
        raise Wrong(400, "Choose left, right or skip.")
    database = desk.studio.database
    row = database.first("SELECT kind FROM showings WHERE id = ? AND visitor = ?", showing, visitor.id)
    if row is None:
        raise Wrong(404, "There is no such pair of yours.")
    counted = showings.vote(database, visitor.id, showing, choice)  # type: ignore[arg-type]
    if counted:
        desk.publisher.soon()
    said = "" if counted else OLD
    if row["kind"] == "comparison":
        return judge_page(desk, request, visitor, said=said) if is_partial(request) else go(request, "/judge")
    more = "more" in form
    if not is_partial(request):
        return go(request, "/choose?more" if more else "/choose")
    return _choose_page(desk, request, visitor, more=more, said=said)


def undo(desk: Desk, request: Request, form: Form) -> Response:
    """Take the last answer back."""
    visitor = desk.known(request)
    undone = showings.undo(desk.studio.database, visitor.id, number(form, "vote"))
    if undone:
        desk.publisher.soon()
    said = "Taken back. Choose again." if undone else "Only the last answer can be taken back, and once."
    if "judge" in form:
        return judge_page(desk, request, visitor, said=said) if is_partial(request) else go(request, "/judge")
    if not is_partial(request):
        return go(request, "/choose?more" if "more" in form else "/choose")
    return _choose_page(desk, request, visitor, more="more" in form, said=said)
