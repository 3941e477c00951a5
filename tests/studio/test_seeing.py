"""What is drawn, for whom, and who may see it."""

import io
import re
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from ppd.studio.limits import Limits
from tests.studio.browser import Browser, says
from tests.studio.conftest import Serve, Served
from tests.studio.small import CAPTIONS


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def finished(browser: Browser) -> str:
    """The page of pictures when nothing is being drawn any more."""
    deadline = time.monotonic() + 60
    while "aria-busy" in browser.get("/see").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return browser.page


def drawn(page: str) -> list[str]:
    return re.findall(r'<img src="(/picture/\w+\.png)"', page)


def test_eight_pictures_of_mine_stand_beside_the_bases_from_the_same_noise(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    assert len(drawn(finished(browser))) == 16
    rows = served.studio.database.all(
        "SELECT model, caption, seed, image FROM pictures WHERE visitor != '' ORDER BY seed"
    )
    mine, base = ({(r["caption"], r["seed"]): r["image"] for r in rows if r["model"] == m} for m in ("ppd", "base"))
    assert len(mine) == 8 and mine.keys() == base.keys()
    (caption, seed), picture = next(iter(base.items()))
    [expected] = served.studio.models.ppd.sample(caption, None, n=1, seed=seed)
    assert np.abs(pixels(picture) - np.asarray(expected).astype(int)).max() <= 2  # other kernels in other batches
    assert all(np.abs(pixels(mine[key]) - pixels(base[key])).max() > 8 for key in mine)
    chosen = {row[0] for row in served.studio.database.all("SELECT caption FROM showings WHERE state = 'answered'")}
    assert not chosen & {caption for caption, _ in mine}


def test_what_the_model_understood_is_said_in_its_words(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    browser.until("/profile", "What the model understood")
    [row] = served.studio.database.all("SELECT * FROM embeddings")
    assert row["n_choices"] == 4 and str(row["profile"]) in says(browser.page)


def test_other_choices_other_pictures(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    finished(browser)
    browser.submit("/undo")
    browser.submit("/vote", choice="right")
    finished(browser)
    assert len(served.rows("drawings")) == 4
    [row] = served.studio.database.all("SELECT choices FROM embeddings")
    assert served.studio.database.all("SELECT choices FROM drawings ORDER BY id DESC")[0]["choices"] == row["choices"]


def test_a_caption_of_ones_own_is_drawn_as_strong_as_one_likes_and_shown_as_text(served: Served) -> None:
    browser = served.visitor()
    browser.choose(4)
    evil = '<script>alert("a fox")</script>'
    finished(browser)
    browser.submit("/draw", caption=evil, strength="0")
    assert evil not in finished(browser)
    assert evil in says(browser.page.replace("&lt;", "＜")).replace("＜", "<")
    rows = served.studio.database.all("SELECT model, seed, image FROM pictures WHERE caption = ?", evil)
    by = {(row["model"], row["seed"]): pixels(row["image"]) for row in rows}
    for seed in {seed for _, seed in by}:
        assert np.abs(by["ppd", seed] - by["base", seed]).max() <= 2  # at strength 0 nobody is there


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"caption": "a" * 201, "strength": "1"}, "201 characters"),
        ({"caption": "  ", "strength": "1"}, "write a caption"),
        ({"caption": "a\x00fox", "strength": "1"}, "control characters"),
        ({"caption": "a fox", "strength": "99"}, "from 0 to 3"),
        ({"caption": "a fox", "strength": "nan"}, "from 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(served: Served, fields: dict[str, str], sentence: str) -> None:
    browser = served.visitor()
    browser.choose(4)
    answer = browser.submit("/draw", **fields)
    assert answer.status_code == 422 and sentence in says(answer.text)
    assert len(served.rows("drawings")) == 2


def test_a_shared_taste_can_be_mixed_with_and_one_that_is_not_cannot(served: Served) -> None:
    ann, ben = served.visitor(), served.visitor()
    for browser, prefers in ((ann, min), (ben, max)):
        for _ in range(4):
            # By what it is, not where it lies: sides are drawn by lot, and the two are shown the same pairs first.
            shown = served.studio.database.one("SELECT * FROM showings WHERE id = ?", browser.showing())
            sides = {shown["left_picture"]: "left", shown["right_picture"]: "right"}
            browser.choose(1, sides[prefers(sides)])
        finished(browser)
    assert "Nobody else is here yet" in says(ben.page)
    token = ben.form("/draw")["token"]
    wish = {"token": token, "caption": CAPTIONS[0], "other": "Ann"}
    assert ben.post("/between", wish).status_code == 429
    ann.submit("/share", name="Ann")
    assert ben.post("/share", {"token": token, "share": "yes", "name": "Ann"}).status_code == 422  # taken
    assert ben.post("/between", wish).status_code == 200
    finished(ben)
    rows = served.studio.database.all("SELECT image FROM pictures WHERE model = 'between' ORDER BY place")
    way = [pixels(row["image"]) for row in rows]
    assert len(way) == 5
    assert np.abs(way[0] - way[4]).mean() > np.abs(way[0] - way[1]).mean() > 0
    ann.get("/see")
    ann.submit("/share")
    ben.get("/see")
    assert "Nobody else is here yet" in says(ben.page)


def test_nobody_sees_what_is_anothers(served: Served) -> None:
    ann, ben = served.visitor(), served.visitor()
    ann.choose(4)
    paths = drawn(finished(ann))
    [number] = served.studio.database.one("SELECT min(id) FROM drawings")
    for path in (*paths, f"/drawing/{number}", "/showing/1/left.png"):
        assert ann.client.get(path).status_code == 200
        assert ben.client.get(path).status_code == 404
    archive = zipfile.ZipFile(io.BytesIO(ann.client.get("/download").content))
    assert len(archive.namelist()) == 16
    assert zipfile.ZipFile(io.BytesIO(ben.client.get("/download").content)).namelist() == []


def test_limits_are_met_with_a_sentence(serve: Serve) -> None:
    with serve(Limits(max_pictures=20)) as served:
        browser = served.visitor()
        browser.choose(4)
        finished(browser)
        answer = browser.submit("/draw", caption="a fox", strength="1")
        assert answer.status_code == 429 and "20 pictures" in says(answer.text)
    with serve(Limits(max_waiting=0)) as served:
        browser = served.visitor()
        browser.choose(4)
        assert "still wait to be drawn" in says(browser.page)


def test_what_waited_when_the_studio_was_ended_is_drawn_afterwards(serve: Serve) -> None:
    with serve() as served:
        browser = served.visitor()
        browser.choose(4)
        with served.studio.database.change():  # as after a kill: written down, not done
            served.studio.database.run("UPDATE drawings SET state = 'waiting', done_at = NULL")
    with serve() as served:
        browser.client.base_url = served.address
        assert len(drawn(finished(browser))) == 16
