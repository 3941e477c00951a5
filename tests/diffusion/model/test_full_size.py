"""The published sizes, on the meta device: shapes and counts without a weight."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import StableCascadeUNet
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from bench.full_size import DECODER, PRIOR, PRIOR_LITE
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.memory import require_room
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import InputError
from ppd.settings import UserAttentionSettings, load_settings
from tests.diffusion.conftest import FlatCodec

ROWS, COMPONENTS = 4, 256


def on_meta(config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> StableCascadeBackbone:
    monkeypatch.setattr("ppd.diffusion.model.stable_cascade.fingerprint", lambda unet: "without weights")
    with torch.device("meta"):
        return StableCascadeBackbone(
            unet=StableCascadeUNet(**config),
            text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(num_hidden_layers=1)),
            tokenizer=None,
            codec=FlatCodec(),
        )


def n_parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("config", "n_base", "n_blocks", "n_adapter"),
    [(PRIOR, 3_589_103_632, 64, 68_157_440), (PRIOR_LITE, 1_030_785_040, 32, 26_214_400)],
    ids=["3.6 B", "lite"],
)
def test_an_adapter_fits_beside_every_block(
    config: dict[str, Any], n_base: int, n_blocks: int, n_adapter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = on_meta(config, monkeypatch)
    assert n_parameters(backbone.unet) == n_base
    settings = load_settings("params.paper.yaml").finetune.attention
    adapter = UserAttention.beside(backbone, (ROWS, COMPONENTS), settings)
    assert len(adapter.blocks) == n_blocks
    assert n_parameters(adapter) == n_adapter
    adapter.attach(backbone)
    with torch.device("meta"), adapter.users(torch.empty(2, ROWS, COMPONENTS)):
        noise = backbone.unet(
            sample=torch.empty(2, 16, 24, 24),
            timestep_ratio=torch.empty(2),
            clip_text_pooled=torch.empty(2, 1, 1280),
            clip_text=torch.empty(2, 77, 1280),
            clip_img=torch.empty(2, 1, 768),
        ).sample
    assert noise.shape == (2, 16, 24, 24)


def test_a_part_of_the_blocks_costs_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = on_meta(PRIOR, monkeypatch)
    deep = UserAttention.beside(backbone, (ROWS, COMPONENTS), UserAttentionSettings(blocks="(down|up)_[01]_.*"))
    up = UserAttention.beside(backbone, (ROWS, COMPONENTS), UserAttentionSettings(blocks="up_.*"))
    assert len(deep.blocks) == 64
    assert len(up.blocks) == 32
    assert n_parameters(deep) - n_parameters(up) == 32 * 2 * 64 * 2048


def test_the_decoder_is_stage_b() -> None:
    with torch.device("meta"):
        assert n_parameters(StableCascadeUNet(**DECODER)) == 1_562_941_136


def test_a_network_that_does_not_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8e9))
    require_room(StableCascadeUNet, PRIOR, torch.bfloat16, cpu, "prior")
    with pytest.raises(InputError, match=r"3.59 billion parameters take 14.4 GB .* 8.0 GB free. Use precision: bf16"):
        require_room(StableCascadeUNet, PRIOR, torch.float32, cpu, "prior")


def test_all_processes_of_a_machine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked by the first one, before any has begun: the later ones find what the others hold already."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16e9))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    require_room(StableCascadeUNet, PRIOR, torch.bfloat16, cpu, "prior")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match="7.2 GB as torch.bfloat16 in each of 3 processes, but this machine has 16.0"):
        require_room(StableCascadeUNet, PRIOR, torch.bfloat16, cpu, "prior")
    monkeypatch.setenv("LOCAL_RANK", "1")
    require_room(StableCascadeUNet, PRIOR, torch.bfloat16, cpu, "prior")
