"""Profiles that a server writes: kept, bounded, and read here as if they had been written here."""

import json
from pathlib import Path

import jinja2
import pytest
import torch
from pydantic import ValidationError

from ppd.errors import InputError
from ppd.settings import EmbeddingSettings, ServerSettings
from ppd.vlm.chat_request import chat_request
from ppd.vlm.embedding import Profile, embed, support_key
from ppd.vlm.prompts import profile_conversation
from ppd.vlm.server_writer import ServerWriter
from ppd.vlm.transformers_backend import TransformersVlm
from tests.tiny import CHAT_TEMPLATE, write_vlm
from tests.vlm.misbehaving_server import Server, refuses, says

TEMPLATE = Path(__file__).parents[2] / "deploy/vllm/in_order.jinja"
N_TOKENS = 6


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> TransformersVlm:
    """A tiny LLaVA-OneVision that reads and writes any text."""
    folder = tmp_path_factory.mktemp("talking")
    write_vlm(folder)
    vlm = TransformersVlm.load(folder, batch_size=2)
    for parameter in vlm.model.parameters():  # larger than the library's initial ones, so that contents matter
        parameter.data.mul_(3)
    return vlm


def to(server: Server, **changes: object) -> ServerSettings:
    settings = {
        "url": server.url,
        "model": "llava",
        "key_variable": None,
        "price_per_million_prompt_tokens": 0.0,
        "price_per_million_answer_tokens": 1.0,
        "budget": 1.0,
        "tokens_per_image": 10,
        "max_new_tokens": N_TOKENS,
        "attempts": 1,
    }
    return ServerSettings.model_validate(settings | changes)


def settings(server: ServerSettings | None = None) -> EmbeddingSettings:
    return EmbeddingSettings(prompt="full-1", read="answer-end", max_new_tokens=N_TOKENS, rows=(2, 3), server=server)


def test_a_profile_that_a_server_wrote_is_embedded_as_one_that_was_written_here(vlm, pairs, server, tmp_path):
    """Within 2e-5 of what generation leaves: its states come by way of a cache, whose sums are rounded otherwise."""
    groups = [pairs(2), pairs(3), pairs(1)]
    how = EmbeddingSettings(read="answer-end", max_new_tokens=N_TOKENS, rows=(2, 3))
    here = embed(vlm, groups, how)
    server.acts = [says(text, finish="length") for text in here.profiles]
    there = embed(vlm, groups, how, ServerWriter(to(server, concurrency=1), tmp_path))
    assert there.profiles == here.profiles
    tokens = [vlm.tokens_of(text) for text in here.profiles]
    assert [len(some) for some in tokens] == [N_TOKENS] * 3, "these texts are cut otherwise: take another seed"
    torch.testing.assert_close(there.hidden, here.hidden, atol=2e-5, rtol=0)
    silent = embed(vlm, groups, how.model_copy(update={"read": "prompt-end", "max_new_tokens": 0}))
    assert (there.hidden - silent.hidden).abs().max() > 1e-3, "what was written matters"


def test_what_was_written_is_kept_and_asked_for_once(pairs, server, tmp_path):
    conversations = [profile_conversation(pairs(k), "full-1") for k in (1, 2)]
    server.afterwards = says("they like foxes", finish="length")
    written = ServerWriter(to(server), tmp_path)(conversations)
    assert written == [Profile("they like foxes", cut=True)] * 2
    assert ServerWriter(to(server), tmp_path)(conversations) == written
    assert len(server.requests) == 2
    assert server.requests[0]["max_completion_tokens"] == N_TOKENS


def test_a_profile_that_is_not_written_stops_the_run_and_says_which_setting(pairs, server, tmp_path):
    conversations = [profile_conversation(pairs(1), "full-1")]
    server.acts = [refuses(404, "no such model", code="model_not_found")]
    with pytest.raises(InputError, match=r"Look at embedding\.server"):
        ServerWriter(to(server), tmp_path)(conversations)
    server.acts = [says("I cannot", finish="content_filter")]
    with pytest.raises(InputError, match="withheld a profile"):
        ServerWriter(to(server), tmp_path)(conversations)
    with pytest.raises(InputError, match=r"Raise embedding\.server\.budget"):
        ServerWriter(to(server, budget=0.0), tmp_path)(conversations)


def test_the_key_changes_with_who_writes_but_not_with_where(pairs, server):
    group = pairs(1)
    keys = [
        support_key(group, "r", settings(written))
        for written in (None, to(server), to(server, model="other"), to(server, url="http://elsewhere/v1"))
    ]
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]


def test_settings_that_contradict_each_other_are_refused(server):
    with pytest.raises(ValidationError, match=r"server\.max_new_tokens \(6\) is not max_new_tokens \(8\)"):
        EmbeddingSettings(prompt="full-1", read="answer-end", max_new_tokens=8, server=to(server))
    with pytest.raises(ValidationError, match="only read: answer-end reads"):
        EmbeddingSettings(prompt="full-1", max_new_tokens=N_TOKENS, server=to(server))


def test_the_template_for_the_engine_leaves_the_prompt_that_is_read_here(talking, pairs, server):
    """The published template puts all images first; ours keeps the order of text and images."""
    conversation = profile_conversation(pairs(2), "full-1")
    messages = json.loads(json.dumps(chat_request(conversation, to(server))["messages"]))
    rendered = jinja2.Template(TEMPLATE.read_text()).render(messages=messages, add_generation_prompt=True)
    assert rendered == talking.prompt(conversation)
    assert rendered.count("<image>") == 4
    assert jinja2.Template(CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=True) != rendered
