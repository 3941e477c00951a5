"""Pages from templates: whole ones for a browser that loads, their middle alone for htmx. Every text is escaped."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ppd.studio.security import COOKIE, Keys

ENVIRONMENT = Environment(
    loader=PackageLoader("ppd.studio"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


class Wrong(Exception):
    """A request that cannot be served: a status and a sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def is_partial(request: Request) -> bool:
    """Whether htmx asks, which wants the middle of a page."""
    return request.headers.get("hx-request") == "true"


def page(
    request: Request,
    keys: Keys,
    template: str,
    content: Mapping[str, object],
    *,
    status: int = 200,
    url: str | None = None,
) -> Response:
    """Render a template. url: the address that the browser shows from now on, where htmx asked by another one."""
    text = ENVIRONMENT.get_template(template).render(
        partial=is_partial(request), token=keys.token(request.cookies.get(COOKIE, "")), **content
    )
    headers = {"Vary": "HX-Request"}
    if url is not None and is_partial(request) and not request.headers.get("hx-current-url", "").endswith(url):
        headers["HX-Push-Url"] = url
    return HTMLResponse(text, status, headers)


def notice(request: Request, keys: Keys, status: int, sentence: str) -> Response:
    """A sentence: above the page that is there, or on a page of its own."""
    if not is_partial(request):
        return page(request, keys, "notice.html", {"sentence": sentence, "visitor": None}, status=status)
    text = ENVIRONMENT.get_template("sentence.html").render(sentence=sentence)
    return HTMLResponse(text, status, {"HX-Retarget": "#notice", "HX-Reswap": "innerHTML", "Vary": "HX-Request"})


def go(request: Request, url: str) -> Response:
    """Lead the browser elsewhere after a change; htmx loads the whole page."""
    if is_partial(request):
        return Response(headers={"HX-Redirect": url})
    return RedirectResponse(url, 303)


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form, each once. Of anything else none: it brings no token either, and is refused for that.

    The size was checked before (`ppd.studio.security.Guard`).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return {}
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError:
        return {}


def number(form: Mapping[str, str], name: str) -> int:
    """A field that holds an id."""
    if not _is_id(text := form.get(name, "")):
        raise Wrong(400, f"The field {name} holds no number.")
    return int(text)


def id_in_path(request: Request) -> int:
    """The id in the address of a page."""
    if not _is_id(text := request.path_params["id"]):
        raise Wrong(404, "There is no such page.")
    return int(text)


def _is_id(text: str) -> bool:
    """Whether the database can hold it: 64 bits with a sign."""
    return text.isascii() and text.isdigit() and len(text) < 19


def words(form: Mapping[str, str], name: str, max_chars: int, what: str) -> str:
    """A field that holds text: one line of printable characters."""
    text = " ".join(form.get(name, "").split())
    if not text:
        raise Wrong(422, f"Please write {what}.")
    if len(text) > max_chars:
        raise Wrong(422, f"That is {len(text)} characters; {what} may have {max_chars}.")
    if not text.isprintable():
        raise Wrong(422, f"Please write {what} without control characters.")
    return text
