"""One vote for each pair, whatever browsers do."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ppd.studio.limits import Limits
from ppd.studio.pool import Preparation
from tests.studio.browser import Browser, says
from tests.studio.conftest import Serve, Served


def test_four_choices_lead_to_the_pictures(served: Served) -> None:
    browser = served.visitor()
    for n in range(4):
        assert f"Choice {n + 1} of 4" in says(browser.page)
        browser.submit("/vote", choice="left")
    assert "Pictures for you" in says(browser.page)
    assert len(served.rows("votes")) == 4


def test_a_double_click_is_one_vote(served: Served) -> None:
    browser = served.visitor()
    fields = browser.form("/vote")
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(browser.post, "/vote", fields | {"choice": side}) for side in ("left", "right") * 4]
    assert {each.result().status_code for each in sent} == {200}
    assert len(served.rows("votes")) == 1
    assert len(served.rows("showings")) == 2  # and one pair that waits


def test_two_tabs_show_the_same_pair_and_a_stale_one_counts_nothing(served: Served) -> None:
    browser = served.visitor()
    tab = Browser(browser.client)
    tab.get("/choose")
    assert tab.showing() == browser.showing()
    browser.submit("/vote", choice="left")
    answer = tab.client.post("/vote", data=tab.form("/vote") | {"choice": "right"}, headers={"HX-Request": "true"})
    assert "answered already" in says(answer.text)
    assert [row[2] for row in served.rows("votes")] == ["left"]
    tab.page = answer.text
    assert tab.showing() == browser.showing()  # both are at the next pair now
    tab.submit("/vote", choice="right")
    assert [row[2] for row in served.rows("votes")] == ["left", "right"]


def test_an_answer_to_somebody_elses_pair_is_refused(served: Served) -> None:
    mine, theirs = served.visitor(), served.visitor()
    fields = mine.form("/vote") | {"choice": "left", "showing": str(theirs.showing())}
    assert mine.post("/vote", fields).status_code == 404
    assert served.rows("votes") == []


def test_the_last_answer_can_be_taken_back_once_and_then_be_another(served: Served) -> None:
    browser = served.visitor()
    first = browser.showing()
    browser.submit("/vote", choice="left")
    taking_back = browser.form("/undo")
    browser.submit("/undo")
    assert browser.showing() == first
    assert browser.post("/undo", taking_back).status_code == 200  # sent twice
    browser.submit("/vote", choice="right")
    assert [(row[2], row[4] is None) for row in served.rows("votes")] == [("left", False), ("right", True)]
    browser.choose(1)
    assert browser.post("/undo", browser.form("/undo") | {"vote": "2"}).status_code == 200  # not the last
    assert [row[4] is None for row in served.rows("votes")] == [False, True, True]


def test_skipping_is_no_choice(served: Served) -> None:
    browser = served.visitor()
    browser.choose(3, "skip")
    assert "Choice 1 of 4" in says(browser.page)


def test_everything_about_a_showing_is_written_down_and_sides_are_drawn_by_lot(serve: Serve) -> None:
    with serve(Limits(changes_a_minute=6000, changes_at_once=200, arrivals_a_minute=200)) as served:
        for _ in range(16):
            served.visitor().choose(1)
        rows = served.studio.database.all(
            "SELECT s.*, l.made, v.voted_at FROM showings s"
            " JOIN pictures l ON l.id = s.left_picture JOIN votes v ON v.showing = s.id"
        )
        assert {row["how"] for row in rows} == {"fixed"}
        assert len({row["caption"] for row in rows}) == 1  # the first pair is everybody's
        assert len({row["left_picture"] for row in rows}) == 2  # now on this side, now on that
        assert all(row["shown_at"] <= row["voted_at"] for row in rows)
        assert all(row["adapter"] == served.studio.models.adapter for row in rows)
        assert all(served.studio.models.base in row["made"] for row in rows)


def test_who_wants_goes_on_choosing_up_to_a_limit(serve: Serve) -> None:
    with serve(Limits(max_choices=6)) as served:
        browser = served.visitor()
        browser.choose(4)
        browser.get("/choose?more")
        browser.choose(2)
        assert "Pictures for you" in says(browser.page) and "Choose more" not in says(browser.page)
        assert "Pictures for you" in says(browser.get("/choose?more").text)
        assert len(served.rows("votes")) == 6


def test_the_pictures_of_both_pairs_that_may_come_next_are_loaded_ahead(served: Served) -> None:
    browser = served.visitor()
    for choice in ("left", "right"):
        ahead = browser.client.get("/ahead").text
        browser.submit("/vote", choice=choice)
        shown = [part.split('"')[0] for part in browser.page.split('<img src="')[1:3]]
        assert all(path in ahead for path in shown)
        assert browser.client.get(shown[0]).headers["content-type"] == "image/png"


def test_until_there_is_something_to_choose_between_the_page_says_how_far_it_is(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(Preparation, "pieces", lambda self: [0, 1])
    monkeypatch.setattr(Preparation, "prepare", lambda self, at: go_on.wait(30) and at / (1 - at))
    with serve() as served:
        browser = served.visitor()
        assert "Captions drawn: 6 of 8" in says(browser.page)
        go_on.set()
        browser.until("/choose", "log says why")
