"""The application: whatever changes something is a POST with a token; the rest changes nothing."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ppd.studio.publishing import Publisher
from ppd.studio.security import COOKIE, ENTRY, Guard, Keys, cookie_options, is_same_site, new_cookie
from ppd.studio.studio import Refused, Studio
from ppd.studio.web import choose, door, judge, see
from ppd.studio.web import files as pictures
from ppd.studio.web.desk import Desk
from ppd.studio.web.pages import Wrong, form_of, go, notice

LOG = logging.getLogger("ppd.studio")
Form = Mapping[str, str]
Respond = Callable[[Request], Awaitable[Response]]


def create_app(studio: Studio, keys: Keys, publisher: Publisher, *, loopback_only: bool = True) -> Starlette:
    """The application. `studio` is started and closed by whoever made it."""
    desk = Desk(studio, keys, publisher)

    def get(path: str, page: Callable[[Desk, Request], Response], *, before_entry: bool = False) -> Route:
        async def respond(request: Request) -> Response:
            if not before_entry and not keys.may_enter(request.cookies.get(ENTRY)):
                return go(request, "/enter")
            return await run_in_threadpool(page, desk, request)

        return Route(path, partial(_answer, keys, respond), methods=["GET"])

    def post(path: str, page: Callable[[Desk, Request, Form], Response], *, before_entry: bool = False) -> Route:
        async def respond(request: Request) -> Response:
            sent = await form_of(request) if is_same_site(request.headers) else {}
            cookie = request.cookies.get(COOKIE)
            if not keys.is_token(cookie, sent.get("token")):
                raise Wrong(403, "This request did not come from a page of the studio, so nothing was changed.")
            if not before_entry and not keys.may_enter(request.cookies.get(ENTRY)):
                raise Wrong(403, "Please give the password first; nothing was changed.")
            if not desk.changes.allows(cookie or ""):
                raise Wrong(429, "That was quick. Please wait a moment, then go on.")
            return await run_in_threadpool(page, desk, request, sent)

        return Route(path, partial(_answer, keys, respond), methods=["POST"])

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        sentences = {404: "There is no such page.", 405: "That cannot be done with this page."}
        return notice(request, keys, status, sentences.get(status, "That did not work."))

    routes = [
        get("/", door.consent),
        post("/begin", door.begin),
        get("/forget", door.forgetting),
        post("/forget", door.forget),
        get("/forgotten", door.forgotten),
        get("/enter", door.entering, before_entry=True),
        post("/enter", door.enter, before_entry=True),
        get("/choose", choose.choose),
        get("/ahead", choose.ahead),
        post("/vote", choose.vote),
        post("/undo", choose.undo),
        get("/see", see.see),
        get("/profile", see.profile),
        get("/drawing/{id}", see.drawing),
        post("/draw", see.draw),
        post("/between", see.between),
        post("/share", see.sharing),
        get("/download", see.download),
        get("/judge", judge.judge),
        post("/round", judge.begin_round),
        get("/pool/{name}.png", pictures.pool_picture),
        get("/picture/{name}.png", pictures.own_picture),
        get("/showing/{id}/{side}.png", pictures.shown_picture),
        Mount("/static", StaticFiles(directory=str(files("ppd.studio") / "static"))),
    ]
    guard = Middleware(Guard, loopback_only=loopback_only, max_bytes=studio.limits.body_bytes)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: lost})


async def _answer(keys: Keys, respond: Respond, request: Request) -> Response:
    """Hand out a cookie where there is none, and turn what goes wrong into a sentence."""
    fresh = None
    if COOKIE not in request.cookies:
        fresh = request.cookies[COOKIE] = new_cookie()
    try:
        response = await respond(request)
    except Wrong as wrong:
        response = notice(request, keys, wrong.status, wrong.sentence)
    except Refused as refused:
        response = notice(request, keys, 429, str(refused))
    except Exception:
        LOG.exception("%s %s", request.method, request.url.path)
        response = notice(
            request, keys, 500, "Something went wrong here. The studio's log says what; please try again."
        )
    if fresh is not None and request.method == "GET":
        response.set_cookie(COOKIE, fresh, **cookie_options(request))
    return response
