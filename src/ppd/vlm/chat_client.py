"""One question to an OpenAI-compatible chat endpoint: asked again where that may help, given up where it cannot."""

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx2

from ppd.errors import InputError
from ppd.settings import ServerSettings

LONGEST_WAIT_S = 120.0
LONGEST_RESPONSE = 1 << 20
"""Bytes; an answer of a word needs a few hundred."""
_WORTH_ANOTHER_TRY = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_WRONG_SETTINGS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}


@dataclass(frozen=True)
class Reply:
    """What the server said, and how many tokens it counted; None where it does not tell."""

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None


class CallFailed(Exception):
    """No usable response to a question, after all attempts or because the server refuses this very question."""


class _TryAgainError(Exception):
    """An attempt that failed in a way that may pass; wait_s: how long the server asks to wait."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class ChatClient:
    """Sends questions; several threads may. The key is read from the environment when one is sent and kept nowhere."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._http = httpx2.Client(timeout=settings.timeout_s)

    def ask(self, body: Mapping[str, object]) -> Reply:
        """The reply to a chat request, in as many attempts as the settings allow.

        Raises CallFailed where this question cannot be answered, InputError where none can (wrong key, model or url).
        """
        failures: list[_TryAgainError] = []
        while len(failures) < self.settings.attempts:
            if failures:
                time.sleep(self._wait_s(len(failures), failures[-1].wait_s))
            try:
                return self._attempt(body)
            except _TryAgainError as error:
                failures.append(error)
        raise CallFailed(f"{len(failures)} attempts: {'; '.join(map(str, failures))}")

    def _wait_s(self, n_failed: int, asked_for: float) -> float:
        """Exponential with jitter, so that many that failed together do not come back together."""
        backoff = self.settings.first_wait_s * 2 ** (n_failed - 1) * random.uniform(0.5, 1.5)
        return min(max(backoff, asked_for), LONGEST_WAIT_S)

    def _attempt(self, body: Mapping[str, object]) -> Reply:
        try:
            status, headers, content = self._send(body)
        except httpx2.RequestError as error:
            raise _TryAgainError(type(error).__name__) from error
        if status in _WRONG_SETTINGS:
            raise InputError(
                f"the judge's server answers {status} for model {self.settings.model!r}",
                file=self.settings.url,
                fix=f"Look at judge.server: url, model, and the key in ${self.settings.key_variable}",
            )
        if status in _WORTH_ANOTHER_TRY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TryAgainError(f"status {status}", _retry_after_s(headers))
        if status != HTTPStatus.OK:
            raise CallFailed(f"status {status}: {self._without_key(content[:300].decode(errors='replace'))}")
        return _read(content)

    def _send(self, body: Mapping[str, object]) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and content. The client's own timeout is for each read; a trickle is cut off here."""
        deadline = time.monotonic() + self.settings.timeout_s
        url = f"{self.settings.url.rstrip('/')}/chat/completions"
        content = b""
        with self._http.stream("POST", url, json=body, headers=self._headers()) as response:
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise _TryAgainError("ReadTimeout")
                if len(content) > LONGEST_RESPONSE:
                    raise CallFailed(f"a response of more than {LONGEST_RESPONSE} bytes")
        return response.status_code, response.headers, content

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key()}"} if self.settings.key_variable else {}

    def _key(self) -> str:
        key = os.environ.get(str(self.settings.key_variable), "")
        if not key:
            raise InputError(
                f"the environment variable {self.settings.key_variable} holds no API key",
                fix="Set it, or set judge.server.key_variable: null for a server that wants none",
            )
        return key

    def _without_key(self, text: str) -> str:
        return text.replace(self._key(), "(the key)") if self.settings.key_variable else text


def _read(content: bytes) -> Reply:
    """The reply in a response's JSON; a torn one may be whole at the next attempt."""
    try:
        response = json.loads(content)
        said = response["choices"][0]["message"]["content"]
        usage = response.get("usage") or {}
        return Reply(str(said or ""), usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _TryAgainError(f"no chat completion ({type(error).__name__})") from error


def _retry_after_s(headers: httpx2.Headers) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 where it does not ask."""
    value = headers.get("retry-after", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
