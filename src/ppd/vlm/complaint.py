"""What a server says in place of an answer, in its own words, and whether it makes sense to ask on.

Servers agree on the status codes and on little else, so what a complaint is about is read from its code and its words,
and where they do not tell, `unclear` leaves it to what happens to other questions.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

LONGEST_REASON = 300
"""Characters."""

About = Literal["moment", "question", "run", "unclear"]
"""moment: it may pass; question: this one alone; run: every question will get it; unclear: this one, or every one."""

_PASSES = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_STAYS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    HTTPStatus.GONE,
    HTTPStatus.UPGRADE_REQUIRED,
    HTTPStatus.NOT_IMPLEMENTED,
}

_NO_MONEY_CODE = re.compile(
    r"insufficient.?(quota|balance|credit|fund)|billing.?(hard.?limit|not.?active)|exceeded.?budget|budget.?exceeded"
    r"|arrear|payment.?required|credit.?balance"
)
_NO_MONEY = re.compile(
    r"insufficient (quota|balance|credit|fund)|(no|out of) (credits?|quota|funds)\b|credit balance"
    r"|\b(quota|credits?|balance|budget)\b.{0,40}(exceeded|exhausted|used up|depleted|too low)"
    r"|exceeded\b.{0,40}(quota|budget|credit)|(spend|spending|billing|usage) limit|overdue"
)
_SOON = re.compile(r"per (second|minute|hour)|rate.?limit|(try again|retry) (in|after)|\b[rt]pm\b")
_FILTERED = re.compile(
    r"content.?(filter|policy|management|moderation)|moderation|flagged|\bsafety\b|responsible.?ai|inappropriate"
    r"|sensitive content|harmful|prohibited content|policy violation|usage polic|data.?inspection"
)
_TOO_LONG = re.compile(r"context.{0,10}(length|window|size)|prompt is too long|too many (input )?tokens")
_IMAGES = re.compile(
    r"(at most|only|maximum|max|up to|too many|more than|limit)\b.{0,40}\bimages?\b"
    r"|\bimages?\b.{0,40}\b(limit|allowed|at most|maximum)"
    r"|(not|n't) support.{0,30}\b(images?|vision|multi-?modal)|\b(images?|vision|image_url)\b.{0,40}(not|n't) support"
    r"|not a (vision|multi-?modal)"
)
_OF_ONE_IMAGE = re.compile(r"\bsize|bytes|\b[kmg]i?b\b|pixels?|dimension|resolution|format|type|decode")


@dataclass(frozen=True)
class Complaint:
    """status: what HTTP said. words: the server's reason, one line without control characters, of any length."""

    status: int
    words: str
    about: About
    out_of_money: bool = False


def complaint(status: int, content: bytes, parameters: Iterable[str], *, says_when: bool = False) -> Complaint:
    """Read a response that is no completion.

    parameters: names in the request that the settings chose: who complains of one will do so at every question.
    says_when: whether the server told how long to wait.
    """
    try:
        body: object = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict | list | str) and body:
        words, codes = " ".join(_reasons(body)), " ".join(_codes(body)).lower()
        shown = [code for code in _codes(body) if re.search("[a-z]", code, re.IGNORECASE) and code not in words]
        words += f" ({', '.join(dict.fromkeys(shown))})" if shown else ""
    else:
        words, codes = _visible(content.decode(errors="replace")), ""
    words = one_line(words) or _phrase(status)
    said = f"{codes} {words}".lower()
    if status != HTTPStatus.UNAUTHORIZED and _has_no_money(status, codes, said, says_when=says_when):
        return Complaint(status, words, "run", out_of_money=True)
    return Complaint(status, words, _about(status, said, parameters))


def _has_no_money(status: int, codes: str, said: str, *, says_when: bool) -> bool:
    if status == HTTPStatus.PAYMENT_REQUIRED or _NO_MONEY_CODE.search(codes):
        return True
    return bool(_NO_MONEY.search(said)) and not says_when and not _SOON.search(said)


def _about(status: int, said: str, parameters: Iterable[str]) -> About:
    if status in _PASSES or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _STAYS):
        return "moment"
    if _FILTERED.search(said):
        return "question"
    if status in _STAYS or status < HTTPStatus.BAD_REQUEST:
        return "run"
    if _TOO_LONG.search(said):
        return "unclear"
    if any(re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", said) for name in parameters):
        return "run"
    return "run" if _IMAGES.search(said) and not _OF_ONE_IMAGE.search(said) else "unclear"


def _reasons(body: object) -> Iterator[str]:
    """The sentences of an error object, whichever of the usual shapes it has; each once."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, list):
        yield "; ".join(text for item in body[:3] if (text := " ".join(_reasons(item))))
    elif isinstance(body, dict):
        for key in ("error", "errors", "detail", "message", "msg", "error_description", "title"):
            found = " ".join(_reasons(body.get(key)))
            if found:
                where = body.get("loc")
                yield f"{'.'.join(map(str, where))}: {found}" if isinstance(where, list) else found
                break
        behind = body.get("metadata")  # of a server that only passes on what another one said
        if isinstance(behind, dict) and isinstance(behind.get("raw"), str):
            yield behind["raw"]


def _codes(body: object) -> Iterator[str]:
    """What the error object calls the error, for programs."""
    if isinstance(body, list):
        for item in body[:3]:
            yield from _codes(item)
    elif isinstance(body, dict):
        yield from (str(body[key]) for key in ("code", "type", "param") if isinstance(body.get(key), str | int))
        for key in ("error", "errors", "innererror"):
            yield from _codes(body.get(key))


def _visible(page: str) -> str:
    """The text of an HTML page; anything else as it is."""
    if "<" not in page:
        return page
    page = re.sub(r"<(script|style|head)\b.*?</\1>", " ", page, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"<[^>]*>", " ", page)


def one_line(text: str) -> str:
    """Without what could move a terminal's cursor or hide something: control and format characters, line ends."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def bounded(text: str) -> str:
    """At most LONGEST_REASON characters."""
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"
