"""Pictures, each to whom it belongs."""

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio.taste import picture
from ppd.studio.web.desk import Desk
from ppd.studio.web.pages import Wrong, id_in_path


def pool_picture(desk: Desk, request: Request) -> Response:
    """Of those that everybody chooses from."""
    desk.known(request)
    name = request.path_params["name"]
    found = desk.studio.database.first("SELECT id FROM pictures WHERE id = ? AND visitor IS NULL", name)
    return _png(desk, found["id"] if found else None)


def own_picture(desk: Desk, request: Request) -> Response:
    """One that was drawn for this visitor."""
    visitor, name = desk.known(request), request.path_params["name"]
    found = desk.studio.database.first("SELECT id FROM pictures WHERE id = ? AND visitor = ?", name, visitor.id)
    return _png(desk, found["id"] if found else None)


def shown_picture(desk: Desk, request: Request) -> Response:
    """One side of a showing: an address that says nothing of who drew it."""
    visitor, side = desk.known(request), request.path_params["side"]
    found = desk.studio.database.first(
        "SELECT left_picture AS 'left', right_picture AS 'right' FROM showings WHERE id = ? AND visitor = ?",
        id_in_path(request),
        visitor.id,
    )
    return _png(desk, found[side] if found and side in ("left", "right") else None)


def _png(desk: Desk, name: str | None) -> Response:
    if name is None:
        raise Wrong(404, "There is no such picture of yours.")
    headers = {"Cache-Control": "private, max-age=86400, immutable", "Vary": "Cookie"}
    return Response(picture(desk.studio.database, name), media_type="image/png", headers=headers)
