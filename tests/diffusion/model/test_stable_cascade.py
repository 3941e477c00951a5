import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet

from ppd.diffusion.model.backbone import Codec
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.model.memory import NoRoom
from ppd.diffusion.model.process import Cosine
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import InputError

CAPTIONS = ["a sticker of a fox", "a sticker of a tree", ""]


def noisy(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, 4, 4, generator=g), torch.rand(n, generator=g)


def test_what_is_predicted_is_the_networks_own_output_bit_for_bit(backbone: StableCascadeBackbone) -> None:
    x_t, t = noisy()
    text = backbone.encode_captions(CAPTIONS)
    with torch.inference_mode():
        own = backbone.unet(x_t, t, text.pooled[:, None], text.tokens, torch.zeros(3, 1, 8), return_dict=False)[0]
        assert torch.equal(backbone.predict(x_t, t, text), own)


def test_the_caption_reaches_the_network(backbone: StableCascadeBackbone) -> None:
    """Without clip_img the class drops the text tokens silently: captions with one pooled embedding must differ."""
    x_t, t = noisy(2)
    text = backbone.encode_captions(["a sticker of a fox", "a sticker of a tree"])
    text.pooled[1] = text.pooled[0]
    x_t[1], t[1] = x_t[0], t[0]
    predicted = backbone.predict(x_t, t, text)
    assert (predicted[0] - predicted[1]).abs().max() > 1e-4


def test_alpha_bar_and_add_noise_are_the_schedulers(backbone: StableCascadeBackbone) -> None:
    x_0, _ = noisy(64)
    noise = torch.randn_like(x_0)
    t = torch.linspace(1e-3, 1, 64)
    expected = DDPMWuerstchenScheduler().add_noise(x_0, noise, t)
    torch.testing.assert_close(backbone.process.add_noise(x_0, noise, t), expected, rtol=0, atol=1e-6)


def test_the_checkpoint_says_what_the_network_predicts(tiny_folder: Path, codec: Codec, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    shutil.copytree(tiny_folder, folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    assert load_backbone(folder, codec=codec).process == Cosine("v_prediction")
    assert load_backbone(tiny_folder, codec=codec).process == Cosine("epsilon")


@pytest.mark.parametrize(("lacks", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_bf16_is_fp32_on_a_cpu_that_has_no_instructions_for_it(
    lacks: bool, dtype: torch.dtype, tiny_folder: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppd.diffusion.model.load.lacks_bf16", lambda device: lacks)
    backbone = load_backbone(tiny_folder, codec=codec, precision="bf16")
    assert {weight.dtype for weight in backbone.network.parameters()} == {dtype}


def test_bf16_stays_bf16_where_there_is_no_room_for_fp32(
    tiny_folder: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = sum(weight.numel() for weight in load_backbone(tiny_folder, codec=codec).network.parameters())
    monkeypatch.setattr("ppd.diffusion.model.load.lacks_bf16", lambda device: True)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3 * n))
    backbone = load_backbone(tiny_folder, codec=codec, precision="bf16")
    assert {weight.dtype for weight in backbone.network.parameters()} == {torch.bfloat16}
    with pytest.raises(NoRoom, match="as torch.float32"):
        load_backbone(tiny_folder, codec=codec, precision="fp32")


def test_bf16_keeps_the_timestep_in_fp32(tiny_folder: Path, codec: Codec, backbone: StableCascadeBackbone) -> None:
    """At high t the phase is thousands of rad; rounding t to bf16 would give another time's embedding."""
    in_bf16 = StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec, precision="bf16")
    x_t, _ = noisy()
    t = torch.tensor([0.7013, 0.8127, 0.9571])
    text = backbone.encode_captions(CAPTIONS)
    exact = backbone.predict(x_t, t, text)
    rounded = backbone.predict(x_t, t.bfloat16().float(), text)
    error = (in_bf16.predict(x_t, t, text) - exact).norm() / exact.norm()
    assert error < 0.03 < (rounded - exact).norm() / exact.norm()
    assert in_bf16.fingerprint == backbone.fingerprint


def test_wholly_in_bf16_it_is_as_exact_as_under_autocast(
    tiny_folder: Path, codec: Codec, backbone: StableCascadeBackbone
) -> None:
    """The library's way to keep t exact is autocast over fp32 inputs; ours needs none, and has no fp32 inside."""
    ours = StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec, precision="bf16")
    library = StableCascadeUNet.from_pretrained(tiny_folder, subfolder="prior", torch_dtype=torch.bfloat16).eval()
    x_t, t = noisy()
    text = backbone.encode_captions(CAPTIONS)
    seen: set[torch.dtype] = set()
    hooks = [
        block.register_forward_hook(lambda *call: seen.add(call[2].dtype))
        for block in ours.unet.modules()
        if not list(block.children())
    ]
    with torch.inference_mode():
        exact, found = backbone.predict(x_t, t, text), ours.predict(x_t, t, text)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = library(x_t, t, text.pooled[:, None], text.tokens, torch.zeros(3, 1, 8), return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    error, its_error = ((y.float() - exact).norm() / exact.norm() for y in (found, cast))
    assert seen == {torch.bfloat16}
    assert 0 < error < 1.2 * its_error < 0.03


def test_what_cannot_work_is_refused(tiny_folder: Path, codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="overflows in fp16"):
        StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec, precision="fp16")
    folder = tmp_path / "no-image"
    shutil.copytree(tiny_folder, folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(InputError, match="expected 'epsilon' or 'v_prediction'"):
        StableCascadeBackbone.from_pretrained(folder, codec=codec)


def test_fingerprint_tells_weights_apart(backbone: StableCascadeBackbone, codec: Codec, tiny_folder: Path) -> None:
    other = StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec)
    assert other.fingerprint == backbone.fingerprint
    unet = other.unet
    unet.clf[1].weight.data *= 1.1
    changed = StableCascadeBackbone(unet=unet, text_encoder=other.text_encoder, tokenizer=other.tokenizer, codec=codec)
    assert changed.fingerprint != backbone.fingerprint


def test_attention_blocks_are_all_named(backbone: StableCascadeBackbone) -> None:
    assert list(backbone.attention_blocks()) == ["down_0_2", "down_1_2", "up_0_2", "up_1_2"]
