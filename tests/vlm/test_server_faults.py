"""Faults of a judge's server that do not pass: the run stops at once, in the server's own words, and keeps nothing."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ppd.errors import InputError
from ppd.settings import ServerSettings
from ppd.vlm.chat_client import LONGEST_WAIT_S
from ppd.vlm.complaint import LONGEST_REASON
from tests.vlm.misbehaving_server import KEY, Handler, completion, refuses, says, status


def kept(tmp_path) -> int:
    return len(list((tmp_path / "answers").rglob("*.json")))


@pytest.fixture(autouse=True)
def no_routes(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (refuses(400, "Only 1 image is allowed in a request; raise the limit"), "Only 1 image is allowed"),
        (refuses(429, "The account has no credit left", code="insufficient_quota"), "insufficient_quota"),
        (refuses(402, "Insufficient Balance"), "Insufficient Balance"),
        (refuses(422, "extra field: max_completion_tokens"), "extra field: max_completion_tokens"),
        (refuses(400, "temperature must be 1 with this model"), "temperature must be 1"),
        (refuses(401, "Incorrect API key provided"), "Incorrect API key"),
        (status(404, b'{"detail": "Not Found"}'), "Not Found"),
        (status(301, b"", Location="https://elsewhere/v1"), r"points to https://elsewhere/v1"),
        (status(200, b'{"error": {"message": "No credits", "code": 402}}'), "No credits"),
        (status(429, b"slow down", Retry_After="86400"), "asks to wait 86400 s: slow down"),
    ],
)
def test_a_fault_that_does_not_pass_stops_at_once(server, judge, pairs, candidates, tmp_path, trouble, words):
    server.afterwards = trouble
    with pytest.raises(InputError, match=words) as caught:
        judge(concurrency=4, attempts=6, first_wait_s=30)(pairs(1), [candidates(c) for c in range(12)])
    assert len(server.requests) <= 4
    assert str(caught.value).startswith(f"{server.url}/chat/completions: the server answers ")
    assert kept(tmp_path) == 0


def test_whoever_waits_for_another_attempt_is_woken_by_a_stop(server, judge, pairs, candidates):
    server.acts = [status(429, b"", Retry_After=str(int(LONGEST_WAIT_S)))]
    server.afterwards = refuses(402, "no money")
    with pytest.raises(InputError, match="no money"):  # the test's own time limit is shorter than that wait
        judge(concurrency=2)(pairs(1), [candidates(c) for c in range(3)])


def test_a_plain_rate_limit_is_waited_for(server, judge, pairs, candidates):
    server.acts = [refuses(429, "Rate limit reached on tokens per min", code="rate_limit_exceeded")] * 2
    (verdict,) = judge(attempts=3)(pairs(1), [candidates()])
    assert verdict.winner == "tie"
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", [400, 403])
def test_a_filter_makes_one_question_void(server, judge, pairs, candidates, code):
    server.acts = [refuses(code, "this input was flagged by moderation")] * 4
    one, two, three = judge()(pairs(1), [candidates(c) for c in range(3)])
    assert (one.winner, two.winner, three.winner) == ("void", "void", "tie")
    assert one.shown.said == f"(failed: status {code}: this input was flagged by moderation)"
    assert len(server.requests) == 6


def test_a_reason_that_may_be_everybodys_stops_a_run_that_has_no_answer_yet(server, judge, pairs, candidates, tmp_path):
    server.afterwards = refuses(400, "something is off")
    with pytest.raises(InputError, match="3 questions in a row got no answer; the last one: status 400: something is"):
        judge()(pairs(1), [candidates(c) for c in range(6)])
    assert len(server.requests) == 3
    with pytest.raises(InputError, match="2 questions in a row got no answer; the last one: status 400: something is"):
        judge()(pairs(1), [candidates()])
    server.acts = [says("first")]
    verdicts = judge()(pairs(1), [candidates(c) for c in range(5)])
    assert [verdict.winner for verdict in verdicts] == ["void"] * 5, "where one question was answered, more may be"


def test_reasons_are_bounded_and_hold_neither_key_nor_control_characters(server, judge, pairs, candidates):
    ramble = "x" * (LONGEST_REASON - 10) + KEY + "\x1b[2J\x07" + "y" * 10_000
    server.acts = [refuses(400, ramble), refuses(400, f"a {KEY}\x1b[2J\n\x00b")]
    verdict, _ = judge()(pairs(1), [candidates(), candidates(1)])
    assert verdict.swapped.said == "(failed: status 400: a (the key) b)"
    assert len(verdict.shown.said) < LONGEST_REASON + 40
    assert not any(KEY[:6] in said or "\x1b" in said for said in (verdict.shown.said, verdict.swapped.said))


def test_a_placeholder_for_a_key_does_not_garble_words(server, judge, pairs, candidates, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    server.acts = [refuses(400, "unlikely key k")]
    (verdict,) = judge()(pairs(1), [candidates()])
    assert verdict.shown.said == "(failed: status 400: unlikely key (the key))"


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n", f"\t{KEY} ", f"\ufeff{KEY}".lstrip("\ufeff")])
def test_blanks_around_a_key_are_no_part_of_it(server, judge, pairs, candidates, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    judge()(pairs(1), [candidates()])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "key", ["sk-a\nb", "sk-a\rb", "sk-a\tb", "sk-a\x7fb", "sk-a…", "sk-ä", "\ufeffsk", "sk\u200b", "“sk”"]
)
def test_an_impossible_key_is_an_error_at_once_that_names_its_variable(
    server, judge, pairs, candidates, monkeypatch, key
):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(InputError, match="environment variable JUDGE_KEY holds no possible API key") as caught:
        judge()(pairs(1), [candidates()])
    assert key not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("key", ["", " ", "\n"])
def test_a_key_of_blanks_is_none(server, judge, pairs, candidates, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(InputError, match="JUDGE_KEY holds no API key"):
        judge()(pairs(1), [candidates()])


@pytest.mark.parametrize(
    "url", ["http://[::1/v1", "http://host:port/v1", "http:///v1", "http://a..b\u00ad/v1", "http://a\x00b/v1"]
)
def test_an_url_that_is_none_is_no_trouble_that_passes(judge, pairs, candidates, url):
    with pytest.raises(InputError, match=r"no question can be sent.*Look at judge\.server\.url"):
        judge(url=url, first_wait_s=30)(pairs(1), [candidates()])


def test_a_server_that_speaks_no_tls_is_no_trouble_that_passes(server, judge, pairs, candidates):
    with pytest.raises(InputError, match=r"WRONG_VERSION_NUMBER.*Look at judge\.server\.url"):
        judge(url=server.url.replace("http:", "https:"), first_wait_s=30)(pairs(1), [candidates()])


def test_a_certificate_that_nobody_vouches_for_is_no_trouble_that_passes(judge, pairs, candidates, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        listening.handle_error = lambda *_: None
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
                judge(url=f"https://127.0.0.1:{listening.server_port}/v1", first_wait_s=30)(pairs(1), [candidates()])
        finally:
            listening.shutdown()


def test_the_usual_variables_lead_through_a_proxy(server, judge, pairs, candidates, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    (verdict,) = judge(url="http://judge.invalid/v1")(pairs(1), [candidates()])
    assert verdict.winner == "tie"
    assert server.headers[0]["Host"] == "judge.invalid"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert judge()(pairs(1), [candidates(2)])[0].winner == "tie"


@pytest.mark.parametrize("proxy", ["ftp://proxy:1", "http://proxy:port", "socks5://user:secret@proxy:1", "http://[::1"])
def test_a_bad_proxy_is_named(judge, monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(
        InputError, match="no connection can be set up: .* Look at the environment: all_proxy"
    ) as caught:
        judge()
    assert "secret" not in str(caught.value)


def test_certificates_that_are_not_there_are_named(judge, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="Look at the environment: SSL_CERT_FILE"):
        judge()


def test_a_proxy_that_refuses_stops_and_one_that_is_down_is_tried_again(server, judge, pairs, candidates, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", server.url.removesuffix("/v1"))  # it knows no CONNECT: 501
    with pytest.raises(InputError, match="no question can be sent: ProxyError: 501 .*HTTPS_PROXY"):
        judge(url="https://judge.invalid/v1", first_wait_s=30)(pairs(1), [candidates()])
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (verdict,) = judge(url="https://judge.invalid/v1", attempts=2)(pairs(1), [candidates()])
    assert verdict.shown.said.startswith("(failed: 2 attempts: ConnectError")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            says("", "length"),
            r"said nothing until its tokens were used up\. Raise judge\.server\.max_new_tokens \(16\)",
        ),
        (says("The first has", "length"), "said 'The first has' until its tokens were used up"),
        (says("<think>hm", "length"), "said nothing but only thought until its tokens were used up"),
        (says(None, "length", reasoning_content="hm"), "said nothing but only thought until its tokens were used up"),
    ],
)
def test_tokens_that_do_not_reach_stop_the_run(server, judge, pairs, candidates, tmp_path, reply, words):
    server.afterwards = reply
    with pytest.raises(InputError, match=f"3 questions in a row got no answer; the last one: it {words}"):
        judge()(pairs(1), [candidates(c) for c in range(12)])
    assert kept(tmp_path) == 0
    server.afterwards = says("first")
    assert judge()(pairs(1), [candidates(c) for c in range(2)])[0].winner == "tie"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (says("both are lovely"), "it said 'both are lovely', neither first nor second"),
        (says(""), "it said nothing, neither first nor second"),
        (says(None, refusal="I do not judge"), "it said 'I do not judge' and withheld an answer"),
        (says("first", "content_filter"), "it said 'first' and withheld an answer"),
        (says("<think>hm"), "it said nothing but only thought. Raise"),
        (status(503, b"overloaded"), "2 attempts: status 503: overloaded"),
        (status(200, b"<html><p>Welcome"), "2 attempts: no chat completion .*: <html><p>Welcome"),
        (refuses(400, "flagged by moderation"), "status 400: flagged by moderation. This server refuses"),
    ],
)
def test_a_run_of_voids_stops_with_the_reason_and_keeps_nothing(
    server, judge, pairs, candidates, tmp_path, reply, words
):
    known, asked = pairs(1), [candidates(c) for c in range(12)]
    server.acts, server.afterwards = [says("first")] * 2, reply
    with pytest.raises(InputError, match=f"20 questions in a row got no answer; the last one: {words}"):
        judge(attempts=2, first_wait_s=0)(known, asked)
    assert kept(tmp_path) == 2
    server.acts, server.afterwards = [], says("second")
    before = len(server.requests)
    verdicts = judge()(known, asked)
    assert len(server.requests) == before + 22
    assert [verdict.winner for verdict in verdicts] == ["tie"] * 12


def test_what_was_kept_by_an_older_version_as_no_answer_is_asked_again(server, judge, pairs, candidates, tmp_path):
    known, asked = pairs(1), [candidates()]
    judge()(known, asked)
    first, second = sorted((tmp_path / "answers").rglob("*.json"))
    old = {"text": "[{'type': 'text', 'text': 'first'}]", "prompt_tokens": 9, "answer_tokens": 1}
    first.write_text(json.dumps(old))
    second.write_text('{"text": "fir')
    judge()(known, asked)
    assert len(server.requests) == 4
    first.write_text(json.dumps(old | {"text": "first"}))
    judge()(known, asked)
    assert len(server.requests) == 4, "an answer of an older version is one"


def test_fields_of_the_request_are_renamed_left_out_and_added_by_settings(server, judge, pairs, candidates):
    known, asked = pairs(1), [candidates()]
    changes = {"max_tokens_field": "max_tokens", "temperature": None, "extra_body": {"reasoning_effort": "low"}}
    judge(**changes)(known, asked)
    sent = server.requests[0]
    assert sent.keys() == {"model", "messages", "max_tokens", "reasoning_effort"}
    assert (sent["max_tokens"], sent["reasoning_effort"]) == (16, "low")
    judge(max_tokens_field=None)(known, asked)
    assert server.requests[2].keys() == {"model", "messages", "temperature"}
    for changed in ({"temperature": None}, {"max_tokens_field": "max_tokens"}, {"extra_body": {"seed": 1}}, {}):
        before = len(server.requests)
        judge(**changed)(known, asked)
        judge(**changed)(known, asked)
        assert len(server.requests) == before + 2, f"{changed}: another question, kept like any other"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_body": {"messages": []}}, "extra_body holds messages"),
        ({"extra_body": {"max_completion_tokens": 3}}, "extra_body holds max_completion_tokens"),
        ({"extra_body": {"stream": True}}, "stream and n cannot be changed"),
        ({"extra_body": {"n": 2}}, "stream and n cannot be changed"),
        ({"extra_body": {"top_p": float("nan")}}, "cannot be sent as JSON"),
        ({"max_tokens_field": "messages"}, "another field of the request"),
        ({"max_tokens_field": "max tokens"}, "pattern"),
        ({"max_tokens_field": ""}, "pattern"),
    ],
)
def test_a_field_of_the_request_is_set_once(changes, words):
    settings = {"url": "http://localhost/v1", "model": "m", "key_variable": None, "tokens_per_image": 1, "budget": 0}
    prices = {"price_per_million_prompt_tokens": 0, "price_per_million_answer_tokens": 0}
    with pytest.raises(ValueError, match=words):
        ServerSettings(**(settings | prices | changes))


def test_as_many_connections_as_questions_under_way(server, judge, pairs, candidates):
    def when_many_are_there(handler: Handler) -> None:
        """However long a busy machine takes to open them."""
        deadline = time.monotonic() + 15
        while server.most_under_way <= 100 and time.monotonic() < deadline:
            time.sleep(0.05)
        handler.reply(200, completion("first"))

    server.afterwards = when_many_are_there
    judge(concurrency=150, timeout_s=60)(pairs(1), [candidates() for _ in range(75)])
    assert server.most_under_way > 100, "a client opens no more than a hundred unless told"
