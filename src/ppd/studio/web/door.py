"""Coming in, agreeing, and being forgotten."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio.security import COOKIE, ENTRY, cookie_options
from ppd.studio.visitors import welcome
from ppd.studio.web.desk import Desk, address
from ppd.studio.web.pages import Wrong, go

Form = Mapping[str, str]


def consent(desk: Desk, request: Request) -> Response:
    """The first page: what happens here, and what is kept."""
    return desk.page(request, "consent.html", visitor=desk.visitor(request), limits=desk.studio.limits)


def begin(desk: Desk, request: Request, form: Form) -> Response:
    """The visitor agrees."""
    if form.get("agree") != "yes":
        raise Wrong(422, "Please tick the box first: without your consent nothing is kept, so nothing can begin.")
    if desk.visitor(request) is None and not desk.arrivals.allows(address(request)):
        raise Wrong(429, "Many people are coming in from your address. Please try again in a minute.")
    welcome(desk.studio.database, request.cookies[COOKIE])
    return go(request, "/choose")


def forgetting(desk: Desk, request: Request) -> Response:
    """What forgetting reaches and what not, before it is done."""
    return desk.page(request, "forget.html", visitor=desk.known(request))


def forget(desk: Desk, request: Request, form: Form) -> Response:
    """Delete everything of this visitor; a second time there is nothing left to do."""
    visitor = desk.visitor(request)
    if visitor is not None:
        desk.studio.forget(visitor)
        desk.publisher.at_once()
    response = go(request, "/forgotten")
    response.headers["Clear-Site-Data"] = '"cache"'
    response.delete_cookie(COOKIE, path="/")
    return response


def forgotten(desk: Desk, request: Request) -> Response:
    """Where a browser is afterwards."""
    return desk.page(request, "forgotten.html", visitor=None)


def entering(desk: Desk, request: Request) -> Response:
    """Asks for the password, where one was set."""
    return desk.page(request, "enter.html", visitor=None)


def enter(desk: Desk, request: Request, form: Form) -> Response:
    """Let a browser in that knows the password."""
    if not desk.entries.allows(address(request)):
        raise Wrong(429, "Too many passwords were tried from your address. Please wait a minute.")
    if not desk.keys.is_password(form.get("password", "")):
        raise Wrong(401, "That is not the password.")
    response = go(request, "/")
    response.set_cookie(ENTRY, desk.keys.entry, **cookie_options(request))
    return response
