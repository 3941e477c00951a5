"""Who may change what: same-site requests with a token, limits on how often, and a password where one was set.

A browser gets a random cookie; the token in every form is an HMAC of it, so a page of another site can neither read it
nor guess it. The cookie alone changes nothing.
"""

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse

COOKIE, ENTRY = "ppd_studio", "ppd_studio_entry"
_A_YEAR_S = 365 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Keys:
    """Signs tokens and entries. password None: anybody may come in."""

    secret: str
    password: str | None

    def token(self, cookie: str) -> str:
        """What a form of this browser must bring."""
        return self._sign("token", cookie)

    def is_token(self, cookie: str | None, token: str | None) -> bool:
        """Whether the token belongs to this cookie."""
        return bool(cookie and token) and _same(self.token(cookie or ""), token or "")

    @property
    def entry(self) -> str:
        """The cookie of a browser that has given the password; another password, another cookie."""
        return self._sign("entry", self.password or "")

    def may_enter(self, entry: str | None) -> bool:
        """Whether a browser with this cookie gets in."""
        return self.password is None or _same(self.entry, entry or "")

    def is_password(self, tried: str) -> bool:
        """In a time that says nothing of how much of it was right."""
        digests = [hashlib.sha256(text.encode()).digest() for text in (tried, self.password or "")]
        return self.password is not None and hmac.compare_digest(*digests)

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self.secret.encode(), f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


def _same(ours: str, sent: str) -> bool:
    """In a time that says nothing of where they differ; what was sent may hold any character."""
    return hmac.compare_digest(ours.encode(), sent.encode())


def new_cookie() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def cookie_options(request: Request) -> dict[str, Any]:
    """Not for scripts, not for requests that another site causes, and only over TLS where this came so."""
    secure = request.url.scheme == "https"
    return {"httponly": True, "samesite": "strict", "secure": secure, "path": "/", "max_age": _A_YEAR_S}


def is_same_site(headers: Headers) -> bool:
    """What browsers say of where a request comes from; a client that says nothing of it still needs the token."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


@dataclass
class Meter:
    """Token buckets: so many at once, then so many a minute, for each key."""

    a_minute: float
    at_once: float
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def allows(self, key: str) -> bool:
        """Take one, if there is one."""
        now = time.monotonic()
        with self._lock:
            if len(self._buckets) > 10_000:  # who has not come for long starts anew
                self._buckets = {k: v for k, v in self._buckets.items() if now - v[1] < 60}
            left, at = self._buckets.get(key, (self.at_once, now))
            left = min(self.at_once, left + (now - at) * self.a_minute / 60)
            self._buckets[key] = (left - 1 if left >= 1 else left, now)
            return left >= 1


class Guard:
    """Around the application: hosts it answers to, size of a request, headers of every answer.

    A page of another site whose name was made to lead here (DNS rebinding) brings that name as the host.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, loopback_only: bool, max_bytes: int) -> None:
        self.app, self.loopback_only, self.max_bytes = app, loopback_only, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                # Files of the studio itself are asked for again, and answered briefly when they are the same.
                answer.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        if self.loopback_only and not is_loopback(_name(headers.get("host", ""))):
            await PlainTextResponse("This studio answers on this machine only.", 421)(scope, receive, with_headers)
            return
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > self.max_bytes:
            await PlainTextResponse("That is more than this page takes.", 413)(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


def _name(host: str) -> str:
    """Without the port."""
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
