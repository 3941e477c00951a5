"""Whatever is sent: a status of the 400s with a sentence, never a traceback, and nothing changes."""

import logging
from collections.abc import Mapping

import pytest

from ppd.studio.limits import Limits
from tests.studio.browser import Browser, says
from tests.studio.conftest import Serve, Served

LONG = "9" * 5000
"""Longer than the digits that Python turns into a number."""
IDS = ("0", "-1", "1.5", "٣", "9" * 18, "9" * 30, LONG, "1;2", "x", "%00", "%2e%2e%2f1", "%c3%a9")
PAGES = (
    "/nowhere",
    "/etc/passwd",
    "/static/../studio.sqlite",
    "/static/%2e%2e/%2e%2e/studio.py",
    "/static/..%2f..%2fstudio.py",
    "/static//etc/passwd",
    "/static/",
    "/static/none.css",
    "/static/%00",
    "/static/" + "a" * 300,
    *(f"/drawing/{name}" for name in IDS),
    *(f"/showing/{name}/left.png" for name in IDS),
    "/showing/1/middle.png",
    *(f"/picture/{name}.png" for name in IDS),
    *(f"/pool/{name}.png" for name in IDS),
)
VALUES = ("", " ", "\x00", "é", "x", "-1", "1.5", "nan", "inf", "1e400", "9" * 18, LONG, "'--")
ACTIONS = ("/begin", "/vote", "/undo", "/draw", "/between", "/share", "/round", "/forget", "/enter")


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the studio and its server say of errors."""
    caplog.set_level(logging.ERROR)
    return caplog.records


def assert_refused(browser: Browser, method: str, path: str, **request: object) -> None:
    answer = browser.client.request(method, path, **request)
    what = f"{method} {path[:80]} {str(request)[:200]}"
    assert 400 <= answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:300]}"
    assert method == "HEAD" or len(says(answer.text).split()) >= 2, f"{what}: {answer.text[:300]}"
    assert "Traceback" not in answer.text, what


def test_pages_that_there_are_not_are_named_in_a_sentence(served: Served, complaints: list) -> None:
    browser = served.visitor()
    before = served.everything()
    for path in PAGES:
        assert_refused(browser, "GET", path)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert_refused(browser, method, "/choose")
    assert_refused(browser, "POST", "/choose", data={"a": "b"})
    for action in ("/begin", "/vote"):
        assert_refused(browser, "GET", action)
    assert served.everything() == before
    assert complaints == []


def test_what_is_no_form_of_the_studio_is_refused(served: Served, complaints: list) -> None:
    browser = served.visitor()
    browser.choose(1)
    form = browser.form("/vote")
    before = served.everything()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    sent: list[Mapping[str, object]] = [
        {"content": b""},
        {"content": b"\xff\xfe\x00", "headers": kind},
        {"content": b"token=%ff&token=%00", "headers": kind},
        {"content": b"&".join([b"a=b"] * 5000), "headers": kind},
        {"content": b"x" * 20_000_000, "headers": kind},
        {"content": b"token=" + form["token"].encode(), "headers": {"Content-Type": "text/plain"}},
        {"content": b"token=" + form["token"].encode(), "headers": {"Content-Type": "\xff/\xfe".encode("latin-1")}},
        {"json": form},
        {"files": {"token": b"x" * 100}},
        {"data": {"token": "é" * 64}},
        {"data": {"token": "\x00" * 64}},
        {"data": form | {"token": form["token"].upper()}},
    ]
    for action in ACTIONS:
        for request in sent:
            assert_refused(browser, "POST", action, **request)
        assert_refused(browser, "POST", action, content=iter([b"token=", b"x"]), headers=kind)
    assert served.everything() == before
    assert complaints == []


def test_fields_of_a_form_that_hold_anything_are_refused(serve: Serve, complaints: list) -> None:
    with serve(Limits(changes_at_once=200)) as served:
        for value in VALUES:
            assert_fields_refused(served, value)
    assert complaints == []


def assert_fields_refused(served: Served, value: str) -> None:
    browser = served.visitor()
    browser.choose(1)
    token = {"token": browser.form("/vote")["token"]}
    before = served.everything()
    fields = [("/vote", "showing", {"choice": "left"}), ("/vote", "choice", {"showing": str(browser.showing())})]
    fields += [("/draw", "strength", {"caption": "a fox"})] * (value not in ("", " ", "1.5"))
    fields += [("/between", "other", {"caption": "a fox"})]
    for action, field, others in fields:
        assert_refused(browser, "POST", action, data=token | others | {field: value})
    assert served.everything() == before


def test_a_cookie_of_anything_is_nobodys(serve: Serve, complaints: list) -> None:
    with serve(password="swordfish") as served:
        browser = Browser.at(served.address, agrees=False)
        browser.client.cookies.clear()
        for cookie in (b"", b"\xff\xfe", b"a" * 5000, "é".encode(), b'"; x=y', b"\x80" * 64):
            headers = {b"Cookie": b"ppd_studio=" + cookie + b"; ppd_studio_entry=" + cookie}
            assert "Password" in says(browser.client.get("/see", headers=headers).text)
            assert_refused(browser, "POST", "/vote", headers=headers, data={"token": "x"})
    assert complaints == []
