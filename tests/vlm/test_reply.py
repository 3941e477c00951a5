"""What a completion said, in the many forms in which servers tell it."""

import json

import pytest

from ppd.vlm.reply import NoCompletion, Reply, read_reply
from tests.vlm.misbehaving_server import completion


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("first", "first"),
        (" Second.\n", "second"),
        ("**First**", "first"),
        ("“second”", "second"),
        ("The first one.", "first"),
        ("_First_", "first"),
        ('{"answer": "second"}', "second"),
        ("<answer>second</answer>", "second"),
        ("<|begin_of_box|>second<|end_of_box|>", "second"),
        ("This person would prefer the second image.", "second"),
        ("Second. Second.", "second"),
        ("The first looks worse", None),
        ("not the second", None),
        ("I would reject the first", None),
        ("This person would not choose the first one", None),
        ("1st", None),
        ("first or second", None),
        ("firstly", None),
        ("", None),
        ("I cannot help with that.", None),
    ],
)
def test_only_one_of_the_two_words_is_an_answer(said, word):
    assert read_reply(completion(said)).word == word


@pytest.mark.parametrize("said", ["First, I look at", "The first", "first one", "**first**", "first first first"])
def test_what_was_cut_is_an_answer_only_as_the_bare_word(said):
    assert read_reply(completion(said, finish="length")).word is None
    assert read_reply(completion(" First", finish="length")).word == "first", "max_new_tokens: 1 ends like this"


@pytest.mark.parametrize(
    "content",
    [
        "first",
        [{"type": "text", "text": "first"}],
        ["first"],
        {"type": "text", "text": "first"},
        [{"text": "first"}],
        [{"type": "output_text", "text": "first", "annotations": []}],
        [{"type": "text", "text": "fir"}, {"type": "text", "text": "st"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "second?"}]}, {"type": "text", "text": "first"}],
        [{"type": "reasoning", "text": "second?"}, {"type": "text", "text": "first"}],
        [{"type": "text", "text": "<think>second?"}, {"type": "text", "text": "</think>first"}],
        [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "first"}],
    ],
)
def test_content_may_be_in_parts(content):
    reply = read_reply(completion(content))
    assert (reply.text.strip(), reply.word, reply.ending) == ("first", "first", "said")


@pytest.mark.parametrize(
    "text",
    [
        "<think>the second has reds</think>\n\nfirst",
        "the second has reds</think>first",  # the mark that opens it was in the prompt
        "<think></think>first",
        "<THINK>second</THINK> First.",
        "<thinking>second</thinking>first",
        "<think>a</think><think>second</think>first",
        "[THINK]second[/THINK]first",
        "◁think▷second◁/think▷first",
        "<reasoning>second</reasoning><answer>first</answer>",
    ],
)
def test_thinking_is_no_part_of_the_answer(text):
    reply = read_reply(completion(text))
    assert (reply.word, reply.thought) == ("first", True)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_thinking_that_never_ended_said_nothing(finish):
    reply = read_reply(completion("<think>the first is", finish=finish))
    assert (reply.text, reply.word, reply.thought) == ("", None, True)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_in_a_field_of_its_own_is_no_answer(name):
    reply = read_reply(completion(None, **{name: "first"}))
    assert (reply.text, reply.word, reply.thought) == ("", None, True)
    assert read_reply(completion("second", **{name: "first"})).word == "second"


@pytest.mark.parametrize(
    "content",
    [
        completion(None, refusal="I can't judge the first"),
        completion("", refusal="first"),
        completion([{"type": "refusal", "refusal": "first"}]),
        completion("first", finish="content_filter"),
        completion("first", finish="SAFETY"),
        b'{"choices": [{"finish_reason": "content_filter"}]}',
    ],
)
def test_what_was_withheld_is_never_an_answer(content):
    reply = read_reply(content)
    assert (reply.ending, reply.word) == ("withheld", None)


def test_the_words_of_a_refusal_are_told():
    assert read_reply(completion(None, refusal="I'm sorry, no faces")).text == "I'm sorry, no faces"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"3",
        b"<html>",
        b"data: {}",
        b"{}",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null, "finish_reason": "stop"}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": [3]}}]}',
        b'{"choices": [{"message": {"content": [{"type": "text", "text": null}]}}]}',
        b'{"choices": [{"message": {"content": "first"}, "finish_reason": "error"}]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_completion_is_never_an_answer(content):
    with pytest.raises(NoCompletion):
        read_reply(content)


@pytest.mark.parametrize("inside", ["response", "choice"])
def test_an_error_object_in_a_good_response_is_found(inside):
    error = {"message": "upstream is gone", "code": 502}
    response = {"error": error} if inside == "response" else {"choices": [{"error": error, "message": {"content": ""}}]}
    with pytest.raises(NoCompletion) as caught:
        read_reply(json.dumps(response).encode())
    assert caught.value.error == error


@pytest.mark.parametrize(
    "usage", [None, [], 3, {}, {"prompt_tokens": None}, {"prompt_tokens": "9", "completion_tokens": -1}]
)
def test_a_count_that_is_none_is_left_out(usage):
    response = {"choices": [{"message": {"content": "first"}}], "usage": usage}
    assert read_reply(json.dumps(response).encode()) == Reply("first", None, None)
