"""A judge behind a server, against a real one that misbehaves."""

import base64
import io
import itertools
import math
import time

import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.settings import JudgeSettings
from ppd.vlm import server_judge
from ppd.vlm.prompts import Candidates, judge_conversation
from tests.vlm.misbehaving_server import (
    KEY,
    completion,
    cut_off,
    in_a_trickle,
    reset,
    says,
    slowly,
    status,
    torn,
)


def test_a_question_shows_words_and_images_in_the_order_of_the_conversation(server, judge, pairs, candidates):
    known, asked = pairs(2), candidates()
    server.acts = [says("first"), says("second")]
    (verdict,) = judge()(known, [asked])
    shown, swapped = server.requests
    assert (shown["model"], shown["temperature"], shown["max_completion_tokens"]) == ("some-model", 0.0, 16)
    content = shown["messages"][0]["content"]
    text = "".join(part.get("text", "<image>") for part in content)
    assert text == judge_conversation(known, asked, "full-1").text == verdict.shown.prompt
    images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    assert len(images) == 6
    assert all(image.startswith("data:image/png;base64,") for image in images)
    other = [part["image_url"]["url"] for part in swapped["messages"][0]["content"] if part["type"] == "image_url"]
    assert other == [*images[:4], images[5], images[4]]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert verdict.winner == "a"
    assert math.isnan(verdict.p_a), "a server tells no probabilities"


@pytest.mark.parametrize("said", ["both are lovely", "", None])
def test_an_answer_in_the_wrong_form_is_void_and_told_as_it_was_said(server, judge, pairs, candidates, said):
    server.acts = [says("first"), says(said)]
    (verdict,) = judge()(pairs(1), [candidates()])
    assert verdict.winner == "void"
    assert (verdict.shown.word, verdict.swapped.word) == ("first", "void")
    assert verdict.swapped.said == (said or "")


@pytest.mark.parametrize(
    "trouble",
    [status(429), status(500), status(503), torn, cut_off, reset, slowly(5), in_a_trickle(8), status(200, b"[]")],
    ids=["429", "500", "503", "torn JSON", "cut off", "reset", "slow", "trickle", "no completion"],
)
def test_trouble_that_passes_changes_no_verdict(server, judge, pairs, candidates, trouble):
    server.acts = [trouble, trouble, says("second"), says("first")]
    started = time.monotonic()
    (verdict,) = judge(timeout_s=2)(pairs(1), [candidates()])
    assert verdict.winner == "b"
    assert len(server.requests) == 4
    assert time.monotonic() - started < 9, "nobody waits for what comes too late"


@pytest.mark.parametrize("trouble", [status(500), torn, reset, slowly(5)], ids=["500", "torn", "reset", "slow"])
def test_trouble_that_stays_is_void_after_the_last_attempt_and_asked_again_by_the_next_run(
    server, judge, pairs, candidates, trouble
):
    known, asked = pairs(1), candidates()
    server.acts = [trouble] * 2 + [says("first")]
    (verdict,) = judge(attempts=2, timeout_s=2)(known, [asked])
    assert verdict.winner == "void"
    assert verdict.shown.said.startswith("(failed: 2 attempts:")
    server.afterwards = says("second")
    (verdict,) = judge()(known, [asked])
    assert len(server.requests) == 4, "the answer to the other order is kept"
    assert verdict.winner == "b"


def test_waits_grow_and_a_server_that_says_how_long_is_believed(server, judge, pairs, candidates):
    server.acts = [status(429), status(429), status(429, Retry_After="0.7"), says("first")]
    judge(attempts=4, first_wait_s=0.1)(pairs(1), [candidates()])
    waits = [later - earlier for earlier, later in itertools.pairwise(server.times[:4])]
    assert waits[0] >= 0.05
    assert waits[1] >= 0.1
    assert waits[2] >= 0.7


def test_a_question_that_the_server_refuses_is_void_at_once_and_never_shows_the_key(server, judge, pairs, candidates):
    server.acts = [status(400, f"bad request with {KEY}".encode())]
    (verdict,) = judge()(pairs(1), [candidates()])
    assert len(server.requests) == 2
    assert verdict.shown.said == "(failed: status 400: bad request with (the key))"


@pytest.mark.parametrize("code", [401, 403, 404])
def test_wrong_settings_stop_the_run_at_once(server, judge, pairs, candidates, code):
    server.afterwards = status(code, KEY.encode())
    with pytest.raises(InputError, match=f"answers {code} for model 'some-model'") as caught:
        judge()(pairs(1), [candidates(c) for c in range(6)])
    assert KEY not in str(caught.value)
    assert len(server.requests) <= 2


def test_without_a_key_nothing_is_asked(server, judge, pairs, candidates, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(InputError, match="JUDGE_KEY holds no API key"):
        judge()(pairs(1), [candidates()])
    assert server.requests == []
    judge(key_variable=None)(pairs(1), [candidates()])
    assert "Authorization" not in server.headers[0]


def test_a_server_that_is_gone_stops_the_run(judge, pairs, candidates, monkeypatch):
    monkeypatch.setattr(server_judge, "VOID_IN_A_ROW", 3)
    with pytest.raises(InputError, match="3 questions in a row got no answer"):
        judge(url="http://127.0.0.1:9", attempts=1)(pairs(1), [candidates(c) for c in range(9)])


def test_no_question_is_paid_for_twice(server, judge, pairs, candidates, tmp_path):
    known, asked = pairs(1), [candidates(c) for c in range(3)]
    first = judge()(known, asked)
    assert len(server.requests) == 6
    again = judge()(known, asked)
    assert len(server.requests) == 6
    assert [v.shown.said for v in again] == [v.shown.said for v in first]
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*.json"))
    for changed in ({"model": "another"}, {"temperature": 0.5}, {"max_new_tokens": 3}):
        before = len(server.requests)
        judge(**changed)(known, asked[:1])
        assert len(server.requests) == before + 2, changed


def test_a_killed_run_goes_on_with_the_answers_it_has(server, judge, pairs, candidates):
    known, asked = pairs(1), [candidates(c) for c in range(4)]
    server.acts, server.afterwards = [says("first")] * 3, status(401)
    with pytest.raises(InputError):
        judge()(known, asked)
    had, server.afterwards = len(server.requests), says("first")
    judge()(known, asked)
    assert len(server.requests) == had + 8 - 3


def test_the_budget_stops_the_run_before_it_is_passed(server, judge, pairs, candidates):
    # 1,000 prompt tokens at 2 a million and 1 at 10 make .00201 a question; images make the estimate of one .00336.
    server.afterwards = lambda handler: handler.reply(200, completion("first", 1000, 1))
    asking = judge(budget=0.02, tokens_per_image=300)
    with pytest.raises(InputError, match="budget of 0.02 is used up") as caught:
        asking(pairs(1), [candidates(c) for c in range(20)])
    assert "Raise judge.server.budget" in str(caught.value)
    assert asking.budget.spent == pytest.approx(0.00201 * len(server.requests))
    assert 0.014 < asking.budget.spent <= 0.02


def test_questions_under_way_count_as_spent(server, judge, pairs, candidates):
    server.afterwards = slowly(0.2)
    asking = judge(
        budget=0.02, tokens_per_image=1000, concurrency=8
    )  # an estimate of more than .008 each: two at a time
    with pytest.raises(InputError, match="used up"):
        asking(pairs(1), [candidates(c) for c in range(8)])
    assert server.most_under_way <= 2


def test_as_many_questions_are_under_way_as_the_settings_allow(server, judge, pairs, candidates):
    server.afterwards = slowly(0.3)
    judge(concurrency=3)(pairs(1), [candidates(c) for c in range(6)])
    assert server.most_under_way == 3


def test_the_estimate_says_how_many_questions_and_what_they_cost(judge, pairs):
    told = judge(tokens_per_image=1000).estimate(pairs(4), n_comparisons=500)
    assert "1000 questions to some-model" in told
    # Ten images of 1,000 tokens at 2 a million are .02 each; the words and the answer add less than a tenth.
    amount = float(told.split("about ")[1].split(" at most")[0])
    assert 20 < amount < 22


def test_a_server_needs_the_prompt_in_words():
    server = {
        "url": "http://localhost:8000/v1",
        "model": "m",
        "key_variable": None,
        "price_per_million_prompt_tokens": 0,
        "price_per_million_answer_tokens": 0,
        "budget": 0,
        "tokens_per_image": 1,
    }
    assert JudgeSettings(prompt="full-1", server=server).server.model == "m"
    with pytest.raises(ValueError, match="needs prompt: full-1"):
        JudgeSettings(prompt="short-1", server=server)


def test_a_server_is_sent_what_a_browser_shows(server, judge, pairs):
    """Bytes as they came where nothing is to interpret; else a PNG in which nothing is left to."""
    photograph, sticker = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "red").save(photograph, "JPEG", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(sticker, "WEBP", lossless=True)
    server.acts = [says("first"), says("second")]
    judge()(pairs(1), [Candidates("a fox", photograph.getvalue(), sticker.getvalue())])
    content = server.requests[0]["messages"][0]["content"]
    sent = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    opened = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in sent]
    assert [image.size for image in opened] == [(64, 64), (64, 64), (16, 32), (8, 8)]
    assert opened[3].getpixel((0, 0)) == (255, 255, 255)


def test_no_other_decoder_is_reached_by_what_is_sent(judge, pairs):
    with pytest.raises(InputError, match="no JPEG, PNG, WEBP image"):
        judge()(pairs(1), [Candidates("a fox", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"GIF89a")])
