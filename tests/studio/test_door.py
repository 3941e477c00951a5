"""Consent, tokens, passwords, and being forgotten."""

import json
import sqlite3

import pytest

from ppd.errors import InputError
from ppd.preferences.studio import SNAPSHOT
from ppd.studio.limits import Limits
from ppd.studio.serve import Access
from tests.studio.browser import Browser, says
from tests.studio.conftest import Serve, Served
from tests.studio.small import paths

CHANGES = ("/begin", "/vote", "/undo", "/draw", "/between", "/share", "/round", "/forget", "/enter")
PAGES = ("/choose", "/see", "/judge", "/forget", "/download", "/profile", "/drawing/1")


def test_the_first_page_asks_for_consent_and_nothing_is_kept_before_it_is_given(served: Served) -> None:
    browser = Browser.at(served.address, agrees=False)
    assert "agree" in says(browser.page) and "Forget me" in says(browser.page)
    assert [browser.get(page).status_code for page in PAGES] == [401] * len(PAGES)
    browser.get("/")
    assert browser.submit("/begin").status_code == 422
    assert served.rows("visitors") == []
    browser.get("/")
    browser.submit("/begin", agree="yes")
    assert len(served.rows("visitors")) == 1


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_without_its_token_is_refused_and_changes_nothing(served: Served, action: str) -> None:
    browser, other = served.visitor(), served.visitor()
    browser.choose(1)
    fields = browser.form("/vote") | {"choice": "left", "agree": "yes", "caption": "a fox", "vote": "1"}
    before = served.everything()
    for token in ("", "0" * 64, other.form("/vote")["token"]):
        assert browser.post(action, fields | {"token": token}).status_code == 403
    for header in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.post(action, fields, **header).status_code == 403
    assert Browser.at(served.address, agrees=False).post(action, fields).status_code == 403
    assert served.everything() == before


def test_only_forms_of_a_sane_size_sent_to_this_machine_are_taken(served: Served) -> None:
    browser = served.visitor()
    fields = browser.form("/vote")
    assert browser.post("/vote", fields | {"choice": "left" * 9999}).status_code == 413
    assert browser.client.post("/vote", json=fields).status_code == 403
    assert browser.post("/vote", fields | {"choice": "left"}, Host="studio.example").status_code == 421
    for field, status in (("x", 400), ("-1", 400), ("9" * 30, 400), ("999999", 404)):
        assert browser.post("/vote", fields | {"choice": "left", "showing": field}).status_code == status
    assert browser.post("/vote", fields | {"choice": "both"}).status_code == 400
    assert served.rows("votes") == []


def test_every_answer_forbids_what_a_page_of_another_site_could_do_with_it(served: Served) -> None:
    for path in ("/", "/static/studio.css", "/nowhere"):
        headers = served.visitor().get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    cookie = Browser.at(served.address, agrees=False).get("/").request.headers["cookie"]
    assert cookie.startswith("ppd_studio=")
    fresh = Browser.at(served.address, agrees=False).client
    fresh.cookies.clear()
    assert {"HttpOnly", "SameSite=strict"} <= set(fresh.get("/").headers["set-cookie"].split("; "))


def test_no_page_asks_another_host_for_anything(served: Served) -> None:
    browser = served.visitor()
    for path in ("/", "/choose", "/judge", "/forget"):
        assert "//" not in browser.get(path).text.replace(served.address, "")


def test_who_changes_too_much_at_once_waits(serve: Serve) -> None:
    with serve(Limits(changes_a_minute=1, changes_at_once=3)) as served:
        browser = served.visitor()
        fields = browser.form("/vote") | {"choice": "left"}
        answers = [browser.post("/vote", fields).status_code for _ in range(4)]
        assert answers == [200, 200, 429, 429]
        assert served.visitor().submit("/vote", choice="left").status_code == 200  # nobody else has to


def test_so_many_arrive_from_one_address_and_no_more(serve: Serve) -> None:
    with serve(Limits(arrivals_a_minute=2)) as served:
        arriving = [Browser.at(served.address, agrees=False) for _ in range(3)]
        assert [one.submit("/begin", agree="yes").status_code for one in arriving] == [200, 200, 429]


def test_a_password_is_asked_for_before_anything_else(serve: Serve) -> None:
    with serve(password="swordfish") as served:
        browser = Browser.at(served.address, agrees=False)
        assert "Password" in says(browser.page)
        assert "Password" in says(browser.get("/choose").text)
        assert browser.submit("/enter", password="sword").status_code == 401
        token = browser.client.get("/enter").text.split('name="token" value="')[1].split('"')[0]
        assert browser.post("/begin", {"token": token, "agree": "yes"}).status_code == 403
        assert served.rows("visitors") == []
        browser.get("/")
        browser.submit("/enter", password="swordfish")
        assert browser.submit("/begin", agree="yes").status_code == 200
        assert len(served.rows("visitors")) == 1


def test_passwords_cannot_be_tried_without_end(serve: Serve) -> None:
    with serve(Limits(entries_a_minute=2), password="swordfish") as served:
        tried = []
        for _ in range(3):
            browser = Browser.at(served.address, agrees=False)
            tried.append(browser.submit("/enter", password="a").status_code)
        assert tried == [401, 401, 429]


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "192.0.2.7", "password": "x"}, False),
        ({"host": "studio.example", "password": "x"}, False),
        ({"host": "0.0.0.0", "plain_http": True}, True),
        ({"password": ""}, False),
    ],
)
def test_beyond_this_machine_it_is_served_over_tls_or_by_an_explicit_wish(access: dict, allowed: bool) -> None:
    if allowed:
        Access(**access).check()
    else:
        with pytest.raises(InputError):
            Access(**access).check()


def test_forgetting_deletes_everything_of_one_visitor_and_nothing_of_another(serve: Serve, tmp_path) -> None:
    where = paths(tmp_path, ingested=True)
    with serve(where=where) as served:
        leaving, staying = served.visitor(), served.visitor()
        for browser in (leaving, staying):
            browser.choose(4)
            browser.until("/profile", "understood")
            browser.get("/see")
            browser.submit("/round")
            browser.judge(8)
            browser.get("/see")
            browser.submit("/share", name=f"somebody {browser is leaving}")
        stays = served.studio.database.one("SELECT id FROM visitors WHERE shared_as = 'somebody False'")["id"]
        leaves = served.studio.database.one("SELECT id FROM visitors WHERE shared_as = 'somebody True'")["id"]
        leaving.get("/forget")
        assert "cannot reach" in says(leaving.page)
        leaving.submit("/forget")
        for table, rows in served.everything().items():
            assert rows, table
        whose = "SELECT DISTINCT visitor FROM {} WHERE visitor IS NOT NULL"
        for table in ("showings", "drawings", "pictures", "embeddings"):
            assert [row[0] for row in served.studio.database.all(whose.format(table))] == [stays]
        assert len(served.rows("votes")) == 12
        assert leaving.get("/see").status_code == 401
        lines = [json.loads(line) for line in where.verdicts.read_text().splitlines()]
        assert len(lines) == 8 and {line["user_id"] for line in lines} == {stays}
        with sqlite3.connect(where.folder.parent / "choices" / SNAPSHOT) as snapshot:
            assert snapshot.execute("SELECT DISTINCT user FROM choices").fetchall() == [(stays,)]
    for file in (where.folder / "studio.sqlite", where.folder.parent / "choices" / SNAPSHOT):
        assert leaves.encode() not in file.read_bytes()  # not even in pages that are free again
