"""A studio that is started, and a visitor who uses it as a browser does: forms with tokens, pictures by address."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Self

import httpx2 as httpx
from served import reachable, until

PORT = 8931
_FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')
_FORM = re.compile(r'<form method="post" action="(/\w+)".*?</form>', re.S)
_IMAGE = re.compile(r'<img src="([^"]+)"')


@dataclass(frozen=True)
class Pair:
    """Two pictures before the visitor's eyes: their files and what they were made for."""

    showing: int
    caption: str
    left: bytes
    right: bytes


@dataclass
class Visitor:
    """One browser. `page` is what it shows; seconds of each request are kept by path."""

    client: httpx.Client
    page: str = ""
    path: str = "/"
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def arrive(cls, address: str) -> Self:
        """Open the first page and agree."""
        visitor = cls(httpx.Client(base_url=address, follow_redirects=True, timeout=60))
        visitor.open("/")
        visitor.send("/begin", agree="yes")
        return visitor

    def open(self, path: str, *, partial: bool = False) -> str:
        """GET a page."""
        headers = {"HX-Request": "true"} if partial else {}
        self.page = self._timed(path, lambda: self.client.get(path, headers=headers))
        return self.page

    def send(self, action: str, **values: str) -> str:
        """Submit the page's form of this action, as htmx does."""
        form = self.form(action)
        self.page = self._timed(
            action, lambda: self.client.post(action, data={**form, **values}, headers={"HX-Request": "true"})
        )
        return self.page

    def form(self, action: str) -> dict[str, str]:
        """The hidden fields of a form of the page."""
        for form in _FORM.finditer(self.page):
            if form[1] == action:
                return {name: unescape(value) for name, value in _FIELD.findall(form[0])}
        raise LookupError(f"no form {action} on this page: {text_of(self.page)[:200]}")

    def pair(self) -> Pair:
        """What the page shows to choose from, once it is there."""
        while "data-answer" not in self.page:
            time.sleep(0.3)
            self.open(self.path)
        (form,) = [form[0] for form in _FORM.finditer(self.page) if form[1] == "/vote"]
        caption = re.search(r'<p class="caption">(.*?)</p>', self.page)
        if "/ahead" in self.page:
            self.client.get("/ahead")  # as the browser does by itself
        left, right = _IMAGE.findall(form)
        showing = int(self.form("/vote")["showing"])
        return Pair(showing, unescape(caption[1]) if caption else "", self.file(left), self.file(right))

    def file(self, path: str) -> bytes:
        """A picture."""
        response = self.client.get(path)
        response.raise_for_status()
        return response.content

    def _timed(self, path: str, ask: Callable[[], httpx.Response]) -> str:
        began = time.perf_counter()
        response = ask()
        if "hx-redirect" in response.headers:
            response = self.client.get(response.headers["hx-redirect"])
        self.seconds.setdefault(path, []).append(time.perf_counter() - began)
        response.raise_for_status()
        asked = response.url.path if response.request.method == "GET" else self.path
        self.path = response.headers.get("hx-push-url", asked)
        return response.text

    def wait_for_pictures(self, n: int, within_s: float = 120) -> float:
        """Poll what is being drawn, as the page does, until n pictures are there; returns the seconds it took."""
        began = time.perf_counter()
        looks = dict.fromkeys(re.findall(r'id="drawing-(\d+)"', self.page))
        while True:
            texts = [self.open(f"/drawing/{look}", partial=True) for look in looks]
            found = [path for text in texts for path in _IMAGE.findall(text)]
            if len(found) >= n:
                for path in found:
                    self.file(path)
                return time.perf_counter() - began
            if time.perf_counter() - began > within_s:
                raise TimeoutError(text_of(" ".join(texts))[:300])
            time.sleep(0.3)


def text_of(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(unescape(re.sub(r"<(head|script).*?</\1>|<[^>]+>", " ", page, flags=re.S)).split())


@contextmanager
def studio(project: Path, adapter: Path, folder: Path) -> Iterator[str]:
    """`ppd studio`, ended with the tour."""
    command = [sys.executable, "-c", "from ppd.cli import main; main()", "studio", "--port", str(PORT)]
    command += ["--adapter", str(adapter), "--folder", str(folder)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=project, env=os.environ, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{PORT}"
    try:
        missing = f"no studio; see {folder / 'log.txt'}"
        until(lambda: reachable(address) or process.poll() is not None, 300, missing, every_s=0.05)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
