"""What the published 7B checkpoint asks for: its processor's settings and template on a narrow model, and its sizes.

Sizes and settings are those of llava-hf/llava-onevision-qwen2-7b-ov-hf; widths and layers alone are small here.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
)

from ppd.settings import EmbeddingSettings
from ppd.users.support import Pair
from ppd.vlm.embedding import embed
from ppd.vlm.last_position import states_at
from ppd.vlm.prompts import Conversation, profile_conversation
from ppd.vlm.transformers_backend import TransformersVlm
from tests.tiny import write_vlm

TOLERANCE = 5e-5
POSITIONS = 27 * 27 + 1  # patches of 14 px on 384 px, and the newline
PINPOINTS = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> TransformersVlm:
    """Narrow, with random weights saved in fp16, and a generation config that would sample and penalise."""
    folder = tmp_path_factory.mktemp("onevision")
    write_vlm(folder, px=384, pinpoints=PINPOINTS)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder)
    for parameter in model.parameters():  # larger than the library's initial ones, so that contents matter
        parameter.data.mul_(4)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=2.0, repetition_penalty=2.0, eos_token_id=model.generation_config.eos_token_id
    )
    model.half().save_pretrained(folder)
    return TransformersVlm.load(folder, batch_size=4)


def picture(seed: int, width: int, height: int) -> bytes:
    buffer, rng = io.BytesIO(), np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(256, size=(6, 6, 3), dtype=np.uint8))
    small.resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def pairs(n: int, first: int = 0) -> list[Pair]:
    """Pictures of the shapes that are found on the web."""
    sizes = [(512, 512), (640, 320), (300, 700), (384, 384)]
    return [
        Pair(f"caption {i}", picture(2 * i + first, *sizes[i % 4]), picture(2 * i + 1 + first, *sizes[(i + 1) % 4]))
        for i in range(n)
    ]


def library_inputs(vlm: TransformersVlm, conversation: Conversation) -> dict[str, torch.Tensor]:
    """What the library's own processor makes of a conversation."""
    pictures = [[Image.open(io.BytesIO(image)).convert("RGB") for image in conversation.images]]
    return dict(vlm.processor(text=[vlm.prompt(conversation)], images=pictures, return_tensors="pt"))


@torch.no_grad()
def library_states(vlm: TransformersVlm, inputs: dict[str, torch.Tensor], read: torch.Tensor) -> torch.Tensor:
    """The library's hidden states [layers + 1, width] where it has read the prompt and the tokens `read`."""
    ids = torch.cat([inputs["input_ids"], read[None]], dim=1)
    inputs = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    hidden = vlm.model(**inputs, output_hidden_states=True).hidden_states
    return torch.stack([layer[0, -1] for layer in hidden])


def library_writes(vlm: TransformersVlm, inputs: dict[str, torch.Tensor], n: int) -> torch.Tensor:
    """The n tokens that the library's forward, again and again over everything, finds most likely one by one."""
    read = inputs["input_ids"].new_empty(0)
    for _ in range(n):
        last = library_states(vlm, inputs, read)[-1]
        read = torch.cat([read, vlm.model.lm_head(last).argmax().reshape(1)])
    return read


NOTHING = torch.empty(0, dtype=torch.long)


def test_eight_images_stand_where_the_text_shows_them_whatever_the_template_does(vlm):
    conversation = profile_conversation(pairs(4), "full-1")
    prompt = vlm.prompt(conversation)
    assert prompt.startswith("<|im_start|>user \n")
    assert prompt.endswith("<|im_end|><|im_start|>assistant\n")
    assert conversation.text in prompt
    (tokens,) = vlm._tokens([conversation])
    assert tokens.count(vlm.processor.image_token_id) == 8 * POSITIONS
    assert tokens == library_inputs(vlm, conversation)["input_ids"][0].tolist()


@pytest.mark.slow
def test_the_numbers_are_the_librarys_for_images_of_every_shape_and_rows_of_every_length(vlm):
    conversations = [profile_conversation(pairs(n, first=10 * n), "full-1") for n in (1, 2)]
    hidden = vlm.hidden_at_end(conversations)
    assert hidden.shape == (2, 4, 24)
    for mine, conversation in zip(hidden, conversations, strict=True):
        expected = library_states(vlm, library_inputs(vlm, conversation), NOTHING)
        torch.testing.assert_close(mine, expected, atol=TOLERANCE, rtol=0)
    assert (hidden[0] - hidden[1]).abs().max() > 100 * TOLERANCE, "the numbers do not depend on the conversation"


def see(vlm, images):
    return vlm.vision.see(vlm.vision.prepare(images))


def test_an_image_that_is_alone_in_its_batch_is_seen_as_among_others(vlm):
    # Alone, the library would squeeze what is not square and pad it among others.
    wide, other = picture(0, 640, 320), picture(1, 384, 384)
    torch.testing.assert_close(see(vlm, [wide])[0], see(vlm, [wide, other])[0], atol=TOLERANCE, rtol=0)
    assert see(vlm, [wide]).shape == (1, POSITIONS, 24)


def test_many_images_are_seen_in_several_forwards(vlm, monkeypatch):
    images = [picture(i, 384, 384) for i in range(5)]
    at_once = see(vlm, images)
    monkeypatch.setattr("ppd.vlm.vision.PATCHES_AT_ONCE", 2 * POSITIONS)
    torch.testing.assert_close(see(vlm, images), at_once, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_a_profile_is_greedy_and_its_last_word_is_where_the_embedding_is_read(vlm, monkeypatch):
    groups = [pairs(n, first=10 * n) for n in (1, 2)]
    settings = EmbeddingSettings(rows=None, prompt="short-1", read="answer-end", max_new_tokens=5)
    inputs = [library_inputs(vlm, profile_conversation(group, "short-1")) for group in groups]
    tokens = [library_writes(vlm, one, 5) for one in inputs]
    together = embed(vlm, groups, settings)
    for row in range(2):  # nothing ended the text, so the last token was written but never read
        expected = library_states(vlm, inputs[row], tokens[row][:-1])
        torch.testing.assert_close(together.hidden[row], expected, atol=TOLERANCE, rtol=0)
        assert together.profiles[row] == vlm.processor.tokenizer.decode(tokens[row], skip_special_tokens=True).strip()
    # Now the second token of the second text ends it; the other text goes on.
    end = int(tokens[1][1])
    assert end not in torch.cat([tokens[0], tokens[1][:1]])
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", end)
    ended = embed(vlm, groups, settings)
    expected = library_states(vlm, inputs[1], tokens[1][:1])
    torch.testing.assert_close(ended.hidden[1], expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ended.hidden[0], together.hidden[0], atol=TOLERANCE, rtol=0)


def test_weights_saved_in_fp16_are_read_in_the_precision_that_is_asked_for(vlm, tmp_path, monkeypatch):
    assert vlm.model.dtype == torch.float32
    vlm.model.half().save_pretrained(tmp_path)
    vlm.model.float()
    vlm.processor.save_pretrained(tmp_path)
    monkeypatch.setattr("ppd.vlm.transformers_backend.lacks_bf16", lambda device: True)
    assert TransformersVlm.load(tmp_path, precision="bf16").model.dtype == torch.float32
    monkeypatch.setattr("ppd.vlm.transformers_backend.lacks_bf16", lambda device: False)
    coarse = TransformersVlm.load(tmp_path, precision="bf16")
    assert {parameter.dtype for parameter in coarse.model.parameters()} == {torch.bfloat16}
    conversation = profile_conversation(pairs(1), "short-1")
    fine, rough = vlm.hidden_at_end([conversation])[0], coarse.hidden_at_end([conversation])[0]
    assert rough.dtype == torch.float32
    assert 0 < ((fine - rough).norm() / fine.norm()) < 0.25


def test_an_embedding_at_7b_is_29_by_3584():
    sizes = Qwen2Config(
        vocab_size=152_128,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    with torch.device("meta"):  # sizes without weights
        model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(text_config=sizes))
        with states_at(model.model.language_model) as latest:
            model.model.language_model(inputs_embeds=torch.empty(2, 8 * POSITIONS, 3584))
    assert latest().shape == (2, 29, 3584)
    assert 8.0e9 < sum(parameter.numel() for parameter in model.parameters()) < 8.1e9
