import peft
import pytest
import torch
from torch import Tensor, nn

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import InputError
from ppd.settings import LoraSettings, UserAttentionSettings

N, ROWS, DIM = 4, 2, 6
RANK_3 = LoraSettings(rank=3, alpha=6)


@pytest.fixture
def inputs(backbone: StableCascadeBackbone) -> tuple:
    g = torch.Generator().manual_seed(3)
    text = backbone.encode_captions(["a sticker of a fox", "a cat", "a tree", ""])
    return torch.randn(N, 4, 4, 4, generator=g), torch.rand(N, generator=g), text


def trained(backbone: StableCascadeBackbone, settings: LoraSettings = RANK_3, *, alone: bool = True) -> UserAttention:
    """An adapter whose low-rank updates are no longer zero."""
    torch.manual_seed(5)
    lora = LowRank(backbone.network, settings)
    for layer in lora.layers.values():
        nn.init.normal_(layer["lora_B"].weight, std=0.3)
    small = UserAttentionSettings(tokens_per_row=2, token_dim=5)
    if alone:
        return UserAttention((ROWS, DIM), {}, small, lora)
    adapter = UserAttention.beside(backbone, (ROWS, DIM), small)
    adapter.lora = lora
    for block in adapter.blocks.values():
        nn.init.normal_(block.to_v.weight)
    adapter.attach(backbone)
    return adapter


def people() -> Tensor:
    return torch.randn(N, ROWS, DIM, generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
@pytest.mark.parametrize("alone", [True, False])
def test_without_a_user_it_is_the_base_bit_for_bit_also_row_by_row(
    backbone: StableCascadeBackbone, inputs: tuple, alone: bool
) -> None:
    base, names = backbone.predict(*inputs), list(backbone.network.state_dict())
    adapter = trained(backbone, alone=alone)
    with adapter.users(people()):
        all_users = backbone.predict(*inputs)
        with adapter.users(None):
            assert torch.equal(backbone.predict(*inputs), base)
        assert torch.equal(backbone.predict(*inputs), all_users)
    assert not torch.allclose(all_users, base, atol=1e-3)
    with adapter.users(torch.zeros(N, ROWS, DIM)):
        assert torch.equal(backbone.predict(*inputs), base)
    with adapter.users(people() * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None, None]):
        mixed = backbone.predict(*inputs)
    assert torch.equal(mixed[1::2], base[1::2])
    assert torch.equal(mixed[0::2], all_users[0::2])
    adapter.detach()
    assert torch.equal(backbone.predict(*inputs), base)
    assert list(backbone.network.state_dict()) == names


@torch.inference_mode()
def test_it_adds_what_the_equation_says(backbone: StableCascadeBackbone) -> None:
    """W·x + (alpha/rank)·B·A·x, in float64, for a layer of the network; its neighbours stay."""
    lora = trained(backbone).lora
    name = "down_blocks.1.2.attention.to_out.0"
    own, base = lora.layers[name.replace(".", "/")], backbone.network.get_submodule(name)
    x = torch.randn(2, 5, base.in_features)
    with lora.acting():
        got = backbone.network.get_submodule(name)(x)
    a, b = own["lora_A"].weight.double(), own["lora_B"].weight.double()
    expected = x.double() @ (base.weight.double() + 2 * b @ a).T + base.bias.double()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    assert len(lora.layers) == 4 * 4
    assert backbone.network.get_submodule(name) is base


def test_gradients_reach_its_weights_and_no_others(backbone: StableCascadeBackbone, inputs: tuple) -> None:
    adapter = trained(backbone)
    with adapter.users(people()):
        backbone.predict(*inputs).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in adapter.parameters())
    assert all(weight.grad is None for weight in backbone.network.parameters())


@torch.inference_mode()
def test_peft_itself_reads_its_weights(backbone: StableCascadeBackbone, inputs: tuple) -> None:
    adapter = trained(backbone)
    with adapter.users(people()):
        ours = backbone.predict(*inputs)
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=list(RANK_3.targets))
    peft.inject_adapter_in_model(config, backbone.network)
    found = peft.set_peft_model_state_dict(backbone.network, adapter.lora.as_peft())
    assert not found.unexpected_keys
    assert not [name for name in found.missing_keys if "lora" in name]
    assert torch.equal(backbone.predict(*inputs), ours)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["to_qq"], r"'to_qq' must name linear layers, but there is no such layer.*end in .*to_out\.0, to_q"),
        (["to_q", "depthwise"], r"'depthwise' must name .* but down_blocks.0.0.depthwise is a Conv2d"),
        (["to_q", "to_out"], r"attention.to_out is a ModuleList"),
    ],
)
def test_targets_that_are_no_linear_layers_are_refused(
    backbone: StableCascadeBackbone, targets: list[str], message: str
) -> None:
    before = list(backbone.network.state_dict())
    with pytest.raises(InputError, match=message):
        LowRank(backbone.network, LoraSettings(targets=targets))
    assert list(backbone.network.state_dict()) == before
    LowRank(backbone.network, RANK_3)


def test_a_layer_that_sees_other_rows_than_users_is_refused(backbone: StableCascadeBackbone, inputs: tuple) -> None:
    adapter = trained(backbone)
    with adapter.users(people()[:2]), pytest.raises(InputError, match="sees 4 rows at once, the batch has 2"):
        backbone.predict(*inputs)
