"""Adapters by others: what does not belong to this base, or is no adapter, is refused with its file and its fault."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file, save_file

from ppd.diffusion.adapter.checkpoint import WEIGHTS, Inference, adapter_config, load_adapter, save_adapter
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import InputError
from ppd.settings import SamplingSettings, UserAttentionSettings

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(backbone: StableCascadeBackbone, tmp_path: Path) -> Path:
    adapter = UserAttention.beside(backbone, (2, 6), UserAttentionSettings(tokens_per_row=2, token_dim=5))
    save_adapter(tmp_path / "adapter", adapter.state_dict(), adapter_config(adapter, backbone, "ppd"))
    load_adapter(tmp_path / "adapter", backbone).detach()
    return tmp_path / "adapter"


def without_one(weights: Tensors) -> Tensors:
    return {name: weight for name, weight in weights.items() if name != "to_tokens"}


def with_nan(weights: Tensors) -> Tensors:
    return weights | {"to_tokens": weights["to_tokens"].index_fill(0, torch.tensor([1]), torch.nan)}


def with_another(weights: Tensors) -> Tensors:
    return weights | {"unet.weight": torch.ones(2)}


def with_a_path(weights: Tensors) -> Tensors:
    return weights | {"../../etc/passwd": torch.ones(2)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_one, "to_tokens is missing"),
        (with_nan, "to_tokens holds values that are no numbers"),
        (with_another, "unet.weight is unknown"),
        (with_a_path, "../../etc/passwd is unknown"),
    ],
)
def test_wrong_weights(
    backbone: StableCascadeBackbone, folder: Path, change: Callable[[Tensors], Tensors], words: str
) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    before = set(folder.parent.rglob("*"))
    with pytest.raises(InputError) as refused:
        load_adapter(folder, backbone)
    assert words in str(refused.value)
    assert str(folder / WEIGHTS) in str(refused.value)
    assert set(folder.parent.rglob("*")) == before
    assert all(type(block.processor) is AttnProcessor2_0 for block in backbone.attention_blocks().values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("embedding_shape", [2]), ("method", "../ppd"), ("attention", {"token_dim": -1}), ("further", 1)],
)
def test_wrong_config(backbone: StableCascadeBackbone, folder: Path, field: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(InputError, match=f"config.json: not the config of an adapter: (.|\n)*{field}"):
        load_adapter(folder, backbone)


@pytest.mark.parametrize(
    "caption",
    ["", "fox " * 2500, "a\x00fox\x07", "\u202eחתול על הגג", "🦊" * 40],
    ids=["empty", "10,000 characters", "control characters", "right to left", "emoji"],
)
def test_any_caption_has_an_embedding(backbone: StableCascadeBackbone, caption: str) -> None:
    text = backbone.encode_captions([caption])
    assert text.tokens.isfinite().all() and text.pooled.isfinite().all()
    assert text.tokens.shape == backbone.encode_captions(["a fox"]).tokens.shape


def test_an_adapter_of_before_there_were_intervals_is_sampled_as_it_was() -> None:
    older = SamplingSettings().model_dump(mode="json")
    for later in ("spacing", "text_interval", "user_interval"):
        del older[later]
    recipe = {"vlm": "v", "revision": "r", "prompt": "short-1", "read": "prompt-end", "max_new_tokens": 8, "rows": [6]}
    written = {"embedding": recipe | {"precision": "fp32"}, "sampling": older}
    sampling = Inference.model_validate_json(json.dumps(written)).sampling
    assert (sampling.spacing, sampling.text_interval, sampling.user_interval) == (1.0, (0.0, 1.0), (0.0, 1.0))
