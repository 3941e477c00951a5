"""A browser without eyes: forms with their tokens, over real HTTP."""

import re
import time
from dataclasses import dataclass
from html import unescape
from typing import Self

import httpx2 as httpx

FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')
FORM = re.compile(r'<form method="post" action="(/\w+)".*?</form>', re.S)


def says(page: str) -> str:
    """The text of a page."""
    return " ".join(unescape(re.sub(r"<(head|script).*?</\1>|<[^>]+>", " ", page, flags=re.S)).split())


@dataclass
class Browser:
    """One visitor. `page` is what was last answered."""

    client: httpx.Client
    page: str = ""

    @classmethod
    def at(cls, address: str, *, agrees: bool = True) -> Self:
        """Open the first page, and agree."""
        browser = cls(httpx.Client(base_url=address, timeout=60, follow_redirects=True))
        browser.get("/")
        if agrees:
            browser.submit("/begin", agree="yes")
        return browser

    def get(self, path: str) -> httpx.Response:
        response = self.client.get(path)
        self.page = response.text
        return response

    def form(self, action: str) -> dict[str, str]:
        """The hidden fields of the page's form with this action."""
        found = next(form[0] for form in FORM.finditer(self.page) if form[1] == action)
        return {name: unescape(value) for name, value in FIELD.findall(found)}

    def post(self, action: str, data: dict[str, str], **headers: str) -> httpx.Response:
        return self.client.post(action, data=data, headers=headers)

    def submit(self, action: str, **values: str) -> httpx.Response:
        """Send the page's form, as a browser without scripts does."""
        response = self.post(action, self.form(action) | values)
        self.page = response.text
        return response

    def showing(self) -> int:
        """The pair on the page."""
        return int(self.form("/vote")["showing"])

    def choose(self, n: int, choice: str = "left") -> None:
        """Answer n pairs."""
        for _ in range(n):
            assert self.submit("/vote", choice=choice).status_code == 200

    def until(self, path: str, text: str, within_s: float = 60) -> str:
        """Open a page again and again until it holds this."""
        deadline = time.monotonic() + within_s
        while text not in self.get(path).text:
            assert time.monotonic() < deadline, says(self.page)
            time.sleep(0.05)
        return self.page

    def judge(self, n: int) -> None:
        """Judge what is there to judge, all for the left."""
        for _ in range(n):
            self.until("/judge", 'action="/vote"')
            assert self.submit("/vote", choice="left").status_code == 200
