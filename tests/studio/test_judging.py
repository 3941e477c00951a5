"""Judging blind, and what the verdicts add up to."""

import json
import re

import numpy as np
import pytest

from ppd.studio.comparisons import win_rate
from ppd.studio.serve import publish
from tests.studio.browser import says
from tests.studio.conftest import Served


def test_a_round_is_blind_and_then_everything_is_told(served: Served) -> None:
    stranger, browser = served.visitor(), served.visitor()
    for one in (stranger, browser):
        one.choose(4, "left" if one is browser else "right")
        one.until("/profile", "understood")
        one.get("/see")
    stranger.submit("/share", name="Ann")
    browser.submit("/round")
    shown = set()
    for at in range(8):
        page = browser.until("/judge", 'action="/vote"')
        assert f"Pair {at + 1} of 8" in says(page)
        main = page.split("<main")[1]
        assert not re.search(r"ppd|base|shuffled|/picture/|/pool/", main)
        assert browser.client.get(f"/showing/{browser.showing()}/left.png").status_code == 200
        shown.add(browser.showing())
        browser.submit("/vote", choice="left")
    assert len(shown) == 8
    text = says(browser.until("/judge", "Your verdict"))
    assert "luck" in text and "Which was which" in text
    verdicts = served.studio.database.all(
        "SELECT s.how, l.model AS l, l.seed AS ls, r.model AS r, r.seed AS rs"
        " FROM showings s JOIN pictures l ON l.id = s.left_picture JOIN pictures r ON r.id = s.right_picture"
        " WHERE s.kind = 'comparison'"
    )
    kinds = [(({v["l"], v["r"]} - {"ppd"}).pop(), v["how"]) for v in verdicts]
    assert sorted(kinds) == sorted([(o, p) for o in ("base", "ppd-shuffled") for p in ("independent", "same-seed")] * 2)
    assert all((v["ls"] == v["rs"]) == (v["how"] == "same-seed") for v in verdicts)
    wins = sum(v["l"] == "ppd" for v in verdicts)
    told = re.findall(r"preferred yours (\d) of 4 times", text)
    assert sum(map(int, told)) == wins


def test_verdicts_of_a_round_that_is_over_stay(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    browser.submit("/round")
    browser.judge(2)
    browser.until("/judge", 'action="/undo"')
    browser.submit("/undo")
    assert "Pair 2 of 8" in says(browser.page)
    browser.judge(7)
    browser.until("/judge", "Your verdict")
    [last] = served.studio.database.one("SELECT max(id) FROM votes")
    token = browser.form("/round")["token"]
    browser.post("/undo", {"token": token, "vote": str(last), "judge": "yes"})
    assert served.studio.database.one("SELECT undone_at FROM votes WHERE id = ?", last)[0] is None


def test_a_round_is_begun_once_and_only_after_the_choices(served: Served) -> None:
    browser = served.visitor()
    token = browser.form("/vote")["token"]
    assert browser.post("/round", {"token": token}).status_code == 422
    browser.choose(4)
    for _ in range(3):
        assert browser.post("/round", {"token": token}).status_code == 200
    browser.judge(8)
    browser.until("/judge", "Your verdict")
    assert len(served.studio.database.all("SELECT id FROM showings WHERE kind = 'comparison'")) == 8


def test_verdicts_are_written_for_the_report_as_they_were_given(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    browser.submit("/round")
    for choice in ("left", "right", "skip", "left", "left", "left", "left", "left"):
        browser.until("/judge", 'action="/vote"')
        browser.submit("/vote", choice=choice)
    browser.until("/judge", "Your verdict")
    publish(served.studio.database, served.paths)
    lines = [json.loads(line) for line in served.paths.verdicts.read_text().splitlines()]
    assert [line["outcome"] for line in lines].count(0.5) == 1
    chosen = ["left", "right", None, *["left"] * 5]
    for line, side in zip(lines, chosen, strict=True):
        assert line["outcome"] == (0.5 if side is None else float(side == line["method_side"]))
        assert (line["method"], line["opponent"]) == ("ppd", "base")
        assert line["adapter"] == served.studio.models.adapter and line["n_choices"] == 4
    others = '{"studio": "elsewhere", "user_id": "b"}\n'
    served.paths.verdicts.write_text(others + served.paths.verdicts.read_text())
    browser.get("/forget")
    browser.submit("/forget")
    assert served.paths.verdicts.read_text() == others


@pytest.mark.parametrize(
    ("outcomes", "low", "high"),
    [([1.0] * 4, 0.5101, 1.0), ([1.0] * 3 + [0.0], 0.3006, 0.9544), ([0.5, 0.5], 0.0, 1.0)],
)
def test_a_win_rate_says_how_little_few_verdicts_are(outcomes: list[float], low: float, high: float) -> None:
    rate = win_rate(outcomes)  # Wilson's interval, by hand
    np.testing.assert_allclose((rate.low, rate.high), (low, high), atol=1e-4)
    assert rate.rate == np.mean(outcomes)
