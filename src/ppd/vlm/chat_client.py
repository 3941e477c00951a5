"""One question to an OpenAI-compatible chat endpoint: asked again where that may help, given up where it cannot."""

import json
import math
import os
import random
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from threading import Event

import httpx2

from ppd.errors import InputError
from ppd.settings import ServerSettings
from ppd.vlm.budget import Budget, cost, estimate
from ppd.vlm.complaint import Complaint, bounded, complaint, one_line
from ppd.vlm.prompts import Conversation
from ppd.vlm.reply import NoCompletion, Reply, read_reply

LONGEST_WAIT_S = 120.0
LONGEST_RESPONSE = 1 << 20
"""Bytes; an answer of a word needs a few hundred."""
_ROUTES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Environment variables that say how a server is reached; lower case counts too."""
_LATER = "Run it again when the server answers"
_SECRET = 8
"""Shorter keys are placeholders such as `none`: in a message they are only removed where they stand alone."""


class CallFailed(Exception):
    """No usable response to a question, after all attempts or because the server refuses it.

    advice: what may help if it goes on like this. for_all: the server may well refuse every other question too.
    """

    def __init__(self, why: str, advice: str, *, for_all: bool = False) -> None:
        super().__init__(why)
        self.advice, self.for_all = advice, for_all


class _TryAgainError(Exception):
    """An attempt that failed in a way that may pass; wait_s: how long the server asks to wait."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class ChatClient:
    """Sends questions; several threads may. The key is read from the environment when one is sent and kept nowhere.

    halt: set by whoever sees that no question makes sense any more; nothing is sent from then on, nobody waits.
    setting: what the settings are a part of, for messages.
    """

    def __init__(self, settings: ServerSettings, halt: Event, setting: str = "judge.server") -> None:
        self.settings, self.setting = settings, setting
        self._halt = halt
        self.url = f"{settings.url.rstrip('/')}/chat/completions"
        try:
            limits = httpx2.Limits(max_connections=settings.concurrency)
            self._http = httpx2.Client(timeout=settings.timeout_s, limits=limits)
        except (httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
            raise InputError(
                f"no connection can be set up: {one_line(str(error))}",
                file=settings.url,
                fix=f"Look at the environment: {_routes() or 'proxies and certificates'}",
            ) from error

    def ask(self, body: Mapping[str, object]) -> Reply:
        """The reply to a chat request, in as many attempts as the settings allow.

        Raises CallFailed where this question cannot be answered, InputError where none can, in the server's own words.
        """
        failures: list[_TryAgainError] = []
        while len(failures) < self.settings.attempts:
            if failures:
                self._halt.wait(self._wait_s(len(failures), failures[-1].wait_s))
            if self._halt.is_set():
                raise CallFailed("not asked: the run stops", _LATER)
            try:
                return self._attempt(body)
            except _TryAgainError as error:
                failures.append(error)
        why = "; ".join(dict.fromkeys(map(str, failures)))
        raise CallFailed(f"{len(failures)} attempts: {why}", _LATER)

    def _wait_s(self, n_failed: int, asked_for: float) -> float:
        """Exponential with jitter, so that many that failed together do not come back together."""
        backoff = self.settings.first_wait_s * 2 ** (n_failed - 1) * random.uniform(0.5, 1.5)
        return min(max(backoff, asked_for), LONGEST_WAIT_S)

    def _attempt(self, body: Mapping[str, object]) -> Reply:
        try:
            status, headers, content = self._send(body)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            why = self._shown(f"{type(error).__name__}: {error}")
            if _is_our_own(error):
                raise InputError(
                    f"no question can be sent: {why}",
                    file=self.url,
                    fix=f"Look at {self.setting}.url"
                    + (f" and at the environment: {routes}" if (routes := _routes()) else ""),
                ) from error
            raise _TryAgainError(why) from error
        wait_s = _retry_after_s(headers)
        if status != HTTPStatus.OK:
            raise self._fault(complaint(status, content, _parameters(body), says_when=wait_s > 0), wait_s, headers)
        try:
            return read_reply(content)
        except NoCompletion as error:
            if error.error is None:
                said = self._shown(content[:LONGEST_RESPONSE].decode(errors="replace"))
                raise _TryAgainError(f"no chat completion ({error}): {said}") from error
            told = complaint(_status_in(error.error), json.dumps(error.error).encode(), _parameters(body))
            raise self._fault(told, wait_s, headers) from error

    def _fault(self, told: Complaint, wait_s: float, headers: httpx2.Headers) -> Exception:
        """What a complaint means for the question and for the run."""
        why = f"status {told.status}: {self._shown(told.words)}"
        patience = LONGEST_WAIT_S * self.settings.attempts
        if told.about == "moment" and wait_s <= patience:
            return _TryAgainError(why, wait_s)
        if told.about == "question":
            return CallFailed(why, "This server refuses such images or words: another may not")
        if told.about == "unclear":
            return CallFailed(why, self._advice(told), for_all=True)
        where = f" (it points to {one_line(headers['location'])})" if "location" in headers else ""
        later = f" and asks to wait {wait_s:.0f} s" if told.about == "moment" else ""
        return InputError(
            f"the server answers {told.status} for model {self.settings.model!r}{where}{later}: "
            f"{self._shown(told.words)}",
            file=self.url,
            fix=self._advice(told),
        )

    def _advice(self, told: Complaint) -> str:
        if told.out_of_money or told.about == "moment":
            return "Run it again when the account may ask again: the answers so far are kept"
        if told.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            return (
                f"Look at {self.setting}: model, max_tokens_field, max_new_tokens, temperature, extra_body, and "
                "whether the server takes as many images as a question has"
            )
        if told.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return f"Look at the environment: {_routes() or 'a proxy'}"
        key = f", and the key in ${self.settings.key_variable}" if self.settings.key_variable else ", and key_variable"
        return f"Look at {self.setting}: url, model{key}"

    def _send(self, body: Mapping[str, object]) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and content. The client's own timeout is for each read; a trickle is cut off here."""
        deadline = time.monotonic() + self.settings.timeout_s
        content = b""
        with self._http.stream("POST", self.url, json=body, headers=self._headers()) as response:
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise _TryAgainError(f"ReadTimeout: no whole response in {self.settings.timeout_s:g} s")
                if len(content) > LONGEST_RESPONSE:
                    raise CallFailed(f"a response of more than {LONGEST_RESPONSE} bytes", _LATER)
        return response.status_code, response.headers, content

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key()}"} if self.settings.key_variable else {}

    def _key(self) -> str:
        """The key without the spaces and line ends that a file or a shell may have left around it."""
        variable = self.settings.key_variable
        key = os.environ.get(str(variable), "").strip()
        if not key:
            raise InputError(
                f"the environment variable {variable} holds no API key",
                fix=f"Set it, or set {self.setting}.key_variable: null for a server that wants none",
            )
        if not (key.isascii() and key.isprintable()):
            raise InputError(
                f"the environment variable {variable} holds no possible API key: there is a control character or one "
                f"outside ASCII at position {_first_illegal(key)} of {len(key)}",
                fix="Copy the key again, without line breaks",
            )
        return key

    def _shown(self, text: str) -> str:
        """A server's words as a message may hold them: one line, bounded, and without the key."""
        text = one_line(text)
        if self.settings.key_variable:
            key = re.escape(self._key())
            text = re.sub(key if len(self._key()) >= _SECRET else rf"(?<![\w-]){key}(?![\w-])", "(the key)", text)
        return bounded(text)


def ask_within(budget: Budget, client: ChatClient, conversation: Conversation, body: Mapping[str, object]) -> Reply:
    """The reply to a question, for money that is set aside first. Raises what the budget and the client raise."""
    reserved = estimate(conversation, client.settings)
    budget.reserve(reserved)
    spent = reserved  # a question without an answer may have been charged all the same
    try:
        reply = client.ask(body)
        counted = cost(reply, client.settings)
        spent = reserved if counted is None else counted
    finally:
        budget.settle(reserved, spent)
    return reply


def _first_illegal(key: str) -> int:
    return next(i for i, character in enumerate(key, start=1) if not (character.isascii() and character.isprintable()))


def _is_our_own(error: Exception) -> bool:
    """Whether the request cannot be sent as it is, or the other side is not the one it should be: no waiting helps."""
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError | httpx2.InvalidURL):
        return True
    if isinstance(error, httpx2.ProxyError):  # its text begins with the status that the proxy answered
        return re.match(r"4(?!08|29)|501", str(error)) is not None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return True  # nobody speaks TLS there
        cause = cause.__cause__ or cause.__context__
    return False


def _routes() -> str:
    """The environment variables that are set and say how a server is reached, by name."""
    return ", ".join(sorted(name for name in os.environ if name.upper() in _ROUTES))


def _parameters(body: Mapping[str, object]) -> list[str]:
    return [name for name in body if name not in ("model", "messages")]


def _status_in(error: object) -> int:
    """The status that an error object inside a response tells; a fault of the server's own where it does not."""
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    try:
        return int(str(code)) if 400 <= int(str(code)) < 600 else HTTPStatus.INTERNAL_SERVER_ERROR
    except ValueError:
        return HTTPStatus.INTERNAL_SERVER_ERROR


def _retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 where it does not ask."""
    value = headers.get("retry-after", "")
    try:
        return max(float(value), 0.0) if math.isfinite(float(value)) else 0.0
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
