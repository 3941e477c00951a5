from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.baking.closed_form import Moments, reduced_rank, start_in_closed_form
from ppd.diffusion.baking.distill import distill, measure, predict_plainly
from ppd.diffusion.baking.run import Recipe, bake
from ppd.diffusion.baking.states import States, visited
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.sampling.sampler import Guidance
from ppd.files import read_json
from ppd.settings import LoraSettings, SamplingSettings, UserAttentionSettings

CAPTIONS = ["a sticker of a fox", "a tree", "a cat", "a fox"]
SAMPLING = SamplingSettings(
    latent_size=(4, 4),
    steps=3,
    batch_size=4,
    precision="fp32",
    sampler="ddim",
    spacing=1.0,
    text_guidance=1.0,
    text_interval=(0.0, 1.0),
    user_guidance=1.0,
    user_interval=(0.0, 1.0),
)
USER = torch.tensor([[0.3, -1.0, 0.5, 0.2, 1.0, -0.4]])
ALL_LAYERS = LoraSettings(rank=2, alpha=2)


def personal(backbone: Backbone, tokens_per_row: int = 2) -> UserAttention:
    torch.manual_seed(5)
    adapter = UserAttention.beside(backbone, (1, 6), UserAttentionSettings(tokens_per_row=tokens_per_row, token_dim=5))
    for block in adapter.blocks.values():
        nn.init.normal_(block.to_v.weight)
        nn.init.normal_(block.to_k.weight, std=3.0)
    adapter.attach(backbone)
    return adapter.eval()


def states_of(backbone: Backbone, adapter: UserAttention, sampling: SamplingSettings = SAMPLING) -> States:
    return visited(backbone, adapter, USER, CAPTIONS, sampling, key="test")


def fresh(backbone: Backbone, *, bias: bool = False, settings: LoraSettings = ALL_LAYERS) -> LowRank:
    torch.manual_seed(0)
    return LowRank(backbone.network, settings, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_regression_finds_a_low_rank_map_and_its_best_part(bias: bool) -> None:
    g = torch.Generator().manual_seed(1)
    z = torch.randn(500, 8, generator=g, dtype=torch.float64) + 1
    true = torch.randn(5, 3, generator=g, dtype=torch.float64) @ torch.randn(3, 8, generator=g, dtype=torch.float64)
    y = z @ true.T + (2.0 if bias else 0.0)
    moments = Moments()
    for part in zip(z.split(100), y.split(100), strict=True):
        moments.add(*part)

    def error(rank: int) -> float:
        a, b, constant = reduced_rank(moments, rank, bias=bias)
        return float((z @ (b @ a).T + (0 if constant is None else constant) - y).square().mean())

    assert error(3) < 1e-8
    left = y - y.mean(dim=0) if bias else y
    best = torch.linalg.svdvals(left)[2:].square().sum() / y.numel()  # y is a map of z: its own best rank-2 part
    assert error(2) == pytest.approx(float(best), rel=1e-3)


@torch.no_grad()
def test_one_user_token_is_a_bias_exactly(backbone: Backbone) -> None:
    """The softmax of one key is 1, so the user adds a constant to every query: no distillation is needed."""
    adapter = personal(backbone, tokens_per_row=1)
    states = states_of(backbone, adapter)
    lora = fresh(backbone, bias=True)
    start_in_closed_form(lora, backbone, adapter, USER, states, strength=1.0, size=4)
    assert measure(backbone, lora, states, SAMPLING).unexplained < 1e-8
    two = personal_again(backbone, adapter)
    start_in_closed_form(lora, backbone, two, USER, (states := states_of(backbone, two)), strength=1.0, size=4)
    assert 1e-3 < measure(backbone, lora, states, SAMPLING).unexplained < 1


def personal_again(backbone: Backbone, adapter: UserAttention) -> UserAttention:
    adapter.detach()
    return personal(backbone)


@torch.no_grad()
def test_states_are_those_of_the_user_s_sampler(backbone: Backbone) -> None:
    adapter = personal(backbone)
    sampling = SAMPLING.model_copy(update={"text_guidance": 2.5, "user_interval": (0.5, 1.0)})
    states = states_of(backbone, adapter, sampling)
    assert len(states) == 3 * 4
    late = states.t <= 0.5
    assert torch.equal(states.target[late], states.base[late])
    assert not torch.allclose(states.target[~late], states.base[~late])
    rows = torch.arange(4)
    text = states.text[states.caption[rows]]
    ours = Guidance(backbone, text, states.text[-1:], USER.expand(4, 1, 6), sampling, adapter)
    torch.testing.assert_close(ours.predict(states.x_t[rows], states.t[rows]), states.target[rows])
    again = States.of(states.tensors())
    assert torch.equal(again.target, states.target)
    assert torch.equal(again.text.tokens, states.text.tokens)


@torch.no_grad()
def test_a_plain_tool_is_taken_at_its_word_where_text_guidance_acts(backbone: Backbone) -> None:
    """States of several noise levels in one batch: each has its own strength, and stays in its place."""
    adapter = personal(backbone)
    sampling = SAMPLING.model_copy(update={"text_guidance": 2.5, "text_interval": (0.0, 0.6)})
    states = states_of(backbone, adapter, sampling)
    adapter.detach()
    lora = fresh(backbone)
    rows = torch.tensor([3, 11, 0, 7, 5])
    together = predict_plainly(backbone, lora, states, rows, sampling)
    assert len(set((states.t[rows] > 0.6).tolist())) == 2
    torch.testing.assert_close(together, states.base[rows])


def test_distillation_comes_nearer_and_goes_on_exactly_after_a_kill(backbone: Backbone, tmp_path: Path) -> None:
    adapter = personal(backbone)
    sampling = SAMPLING.model_copy(update={"text_guidance": 2.0})
    states = states_of(backbone, adapter, sampling)

    def fit(name: str, stop: int | None = None) -> LowRank:
        lora = fresh(backbone)
        start_in_closed_form(lora, backbone, adapter, USER, states, strength=1.0, size=4)
        file = tmp_path / f"{name}.safetensors"
        for step, _ in distill(
            backbone, lora, states, sampling, steps=30, learning_rate=1e-2, checkpoint=file, every=10
        ):
            if step == stop:
                break
        return lora

    start = fresh(backbone)
    start_in_closed_form(start, backbone, adapter, USER, states, strength=1.0, size=4)
    whole = fit("whole")
    before, after = (measure(backbone, lora, states, sampling).unexplained for lora in (start, whole))
    assert after < 0.7 * before
    fit("cut", stop=23)
    resumed = fit("cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def loaded_by_peft(backbone: Backbone, folder: Path, inputs: tuple) -> Tensor:
    model = peft.PeftModel.from_pretrained(backbone.network, folder)
    with torch.no_grad():
        found = backbone.predict(*inputs)
    model.unload()
    return found


def test_what_is_baked_is_what_another_tool_loads(backbone: Backbone, tmp_path: Path) -> None:
    adapter = personal(backbone)
    recipe = Recipe(rank=2, steps=2, images=4, held_out_images=2)
    args = (backbone, adapter, USER, CAPTIONS, SAMPLING, recipe)
    fits = bake(*args, tmp_path / "out", tmp_path / "unfinished", identity="a")
    about = read_json(tmp_path / "out" / "baking.json")
    assert about["held_out"]["distilled"]["unexplained"] == fits["distilled"].unexplained
    assert about["held_out_captions"] == ["a cat"]
    assert not (tmp_path / "unfinished").exists()
    adapter.detach()
    text = backbone.encode_captions(["a cat"])
    inputs = (torch.randn(1, 4, 4, 4), torch.tensor([0.7]), text)
    with torch.no_grad():
        base = backbone.predict(*inputs)
    assert not torch.allclose(loaded_by_peft(backbone, tmp_path / "out", inputs), base, atol=1e-4)
