"""What every page needs: the studio, the keys, and who is asking."""

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio.publishing import Publisher
from ppd.studio.security import COOKIE, Keys, Meter
from ppd.studio.studio import Studio
from ppd.studio.visitors import Visitor, visitor_of
from ppd.studio.web.pages import Wrong, page


@dataclass
class Desk:
    """Shared by all requests."""

    studio: Studio
    keys: Keys
    publisher: Publisher
    changes: Meter = field(init=False)
    arrivals: Meter = field(init=False)
    entries: Meter = field(init=False)

    def __post_init__(self) -> None:
        limits = self.studio.limits
        self.changes = Meter(limits.changes_a_minute, limits.changes_at_once)
        self.arrivals = Meter(limits.arrivals_a_minute, limits.arrivals_a_minute)
        self.entries = Meter(limits.entries_a_minute, limits.entries_a_minute)

    def page(self, request: Request, template: str, *, url: str | None = None, **content: object) -> Response:
        """A page from a template; see `ppd.studio.web.pages.page`."""
        return page(request, self.keys, template, content, url=url)

    def visitor(self, request: Request) -> Visitor | None:
        """Who is asking, if they have agreed."""
        cookie = request.cookies.get(COOKIE)
        return visitor_of(self.studio.database, cookie) if cookie else None

    def known(self, request: Request) -> Visitor:
        """Who is asking; nobody else gets further."""
        visitor = self.visitor(request)
        if visitor is None:
            raise Wrong(401, "Please begin on the first page: nothing is shown or kept without your consent.")
        return visitor


def address(request: Request) -> str:
    """Where a request comes from, as far as the connection says."""
    return request.client.host if request.client else ""
