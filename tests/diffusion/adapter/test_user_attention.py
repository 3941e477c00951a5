import pytest
import torch
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.errors import InputError
from ppd.settings import UserAttentionSettings

SMALL = UserAttentionSettings(tokens_per_row=2, token_dim=5)
N, ROWS, DIM = 4, 2, 6


@pytest.fixture
def inputs(backbone: StableCascadeBackbone) -> tuple:
    g = torch.Generator().manual_seed(3)
    text = backbone.encode_captions(["a sticker of a fox", "a cat", "a tree", ""])
    return torch.randn(N, 4, 4, 4, generator=g), torch.rand(N, generator=g), text


def fresh(backbone: StableCascadeBackbone) -> UserAttention:
    torch.manual_seed(5)
    return UserAttention.beside(backbone, (ROWS, DIM), SMALL).eval()


def trained(backbone: StableCascadeBackbone) -> UserAttention:
    """An adapter whose value projections are no longer zero."""
    adapter = fresh(backbone)
    for block in adapter.blocks.values():
        torch.nn.init.normal_(block.to_v.weight)
    adapter.attach(backbone)
    return adapter


def people(n: int = N) -> Tensor:
    return torch.randn(n, ROWS, DIM, generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def test_before_training_every_user_is_the_base_bit_for_bit(
    in_either_precision: StableCascadeBackbone, inputs: tuple
) -> None:
    backbone = in_either_precision
    base = backbone.predict(*inputs)
    adapter = fresh(backbone)
    adapter.attach(backbone)
    with adapter.users(people()):
        assert torch.equal(backbone.predict(*inputs), base)


@torch.inference_mode()
def test_after_training_zero_and_none_are_the_base_bit_for_bit(
    in_either_precision: StableCascadeBackbone, inputs: tuple
) -> None:
    backbone = in_either_precision
    base = backbone.predict(*inputs)
    adapter = trained(backbone)
    with adapter.users(people()):
        assert not torch.allclose(backbone.predict(*inputs), base, atol=1e-3)
    with adapter.users(torch.zeros(N, ROWS, DIM)):
        assert torch.equal(backbone.predict(*inputs), base)
    with adapter.users(None):
        assert torch.equal(backbone.predict(*inputs), base)
    adapter.detach()
    assert torch.equal(backbone.predict(*inputs), base)


@torch.inference_mode()
def test_rows_of_one_batch_belong_to_different_people(backbone: StableCascadeBackbone, inputs: tuple) -> None:
    base = backbone.predict(*inputs)
    adapter = trained(backbone)
    u = people()
    with adapter.users(u):
        together = backbone.predict(*inputs)
    for row in range(N):
        with adapter.users(u[row].expand(N, -1, -1)):
            torch.testing.assert_close(backbone.predict(*inputs)[row], together[row])
    some = u * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None, None]
    with adapter.users(some):
        mixed = backbone.predict(*inputs)
    assert torch.equal(mixed[1::2], base[1::2])
    assert torch.equal(mixed[0::2], together[0::2])


@torch.inference_mode()
def test_one_block_against_the_equation_in_float64(backbone: StableCascadeBackbone) -> None:
    adapter = trained(backbone)
    name, block = "up_0_2", backbone.attention_blocks()["up_0_2"]
    kv = adapter.blocks[name]
    x, context = torch.randn(2, 24, 3, 3), torch.randn(2, 7, 24)
    tokens = adapter.user_tokens(people(2))
    with adapter.users(people(2)):
        ours = block(x, encoder_hidden_states=context)

    def heads(y: Tensor) -> Tensor:
        return y.double().view(2, -1, 3, 8).transpose(1, 2)

    q, k, v = heads(block.to_q(x.flatten(2).mT)), heads(block.to_k(context)), heads(block.to_v(context))
    k_u, v_u = heads(tokens @ kv.to_k.weight.T), heads(tokens @ kv.to_v.weight.T)
    z = (q @ k.mT / 8**0.5).softmax(-1) @ v + (q @ k_u.mT / 8**0.5).softmax(-1) @ v_u
    out = z.transpose(1, 2).reshape(2, 9, 24) @ block.to_out[0].weight.double().T + block.to_out[0].bias.double()
    torch.testing.assert_close(ours.double(), out.mT.reshape(2, 24, 3, 3), rtol=1e-5, atol=1e-5)


def test_tokens_of_whitened_users_begin_with_variance_1(backbone: StableCascadeBackbone) -> None:
    wide = UserAttention((2, 64), {"up_0_2": 24}, UserAttentionSettings(tokens_per_row=2, token_dim=256))
    tokens = wide.user_tokens(torch.randn(50, 2, 64, generator=torch.Generator().manual_seed(0)))
    assert tokens.shape == (50, 2 * 2, 256)
    assert tokens.std().item() == pytest.approx(1, abs=0.05)


def test_its_weights_are_one_map_a_row_and_two_a_block_without_a_bias(backbone: StableCascadeBackbone) -> None:
    weights = {name: tuple(weight.shape) for name, weight in fresh(backbone).state_dict().items()}
    assert weights == {"to_tokens": (ROWS, DIM, 2 * 5)} | {
        f"blocks.{name}.{kind}.weight": (block.inner_dim, 5)
        for name, block in backbone.attention_blocks().items()
        for kind in ("to_k", "to_v")
    }


def test_attention_is_computed_for_training_where_the_adapter_is_in_that_mode(backbone: StableCascadeBackbone) -> None:
    adapter = trained(backbone)
    processors = [block.processor for block in backbone.attention_blocks().values()]
    assert not any(processor.training for processor in processors)
    adapter.train()
    assert all(processor.training for processor in processors)
    adapter.eval()
    assert not any(processor.training for processor in processors)


def test_tokens_interpolate_linearly_and_keep_zero(backbone: StableCascadeBackbone) -> None:
    adapter = fresh(backbone)
    a, b = people(2)
    between = adapter.user_tokens((0.3 * a + 0.7 * b)[None])
    ends = adapter.user_tokens(torch.stack([a, b]))
    torch.testing.assert_close(between[0], 0.3 * ends[0] + 0.7 * ends[1])
    assert (adapter.user_tokens(torch.zeros(1, ROWS, DIM)) == 0).all()


def test_a_pooled_adapter_knows_one_person_and_nobody(backbone: StableCascadeBackbone) -> None:
    adapter = fresh(backbone)
    adapter.pooled_embedding = people(1)[0]
    u = people(3)
    u[1] = 0
    tokens = adapter.user_tokens(u)
    assert torch.equal(tokens[0], tokens[2])
    assert torch.equal(tokens[:1], fresh(backbone).user_tokens(people(1)))
    assert tokens[0].abs().sum() > 0
    assert tokens[1].abs().sum() == 0


def test_gradient_checkpointing_changes_no_gradient(backbone: StableCascadeBackbone, inputs: tuple) -> None:
    adapter = trained(backbone)

    def gradients() -> dict[str, Tensor]:
        adapter.zero_grad()
        with adapter.users(people()):
            backbone.predict(*inputs).square().mean().backward()
        return {name: p.grad.clone() for name, p in adapter.named_parameters()}

    plain = gradients()
    backbone.enable_gradient_checkpointing()
    checkpointed = gradients()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().sum() > 0


def test_the_backbone_keeps_its_parameters_and_classes(backbone: StableCascadeBackbone) -> None:
    before = {name: w.clone() for name, w in backbone.unet.state_dict().items()}
    trained(backbone)
    after = backbone.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], w) for name, w in before.items())


def test_blocks_are_selectable_and_mistakes_are_named(backbone: StableCascadeBackbone) -> None:
    only_up = UserAttention.beside(backbone, (ROWS, DIM), SMALL.model_copy(update={"blocks": "up.*"}))
    assert list(only_up.blocks) == ["up_0_2", "up_1_2"]
    with pytest.raises(InputError, match=r"matches no block.*down_0_2"):
        UserAttention.beside(backbone, (ROWS, DIM), SMALL.model_copy(update={"blocks": "middle"}))
    adapter = trained(backbone)
    with pytest.raises(InputError, match=r"\(6,\); this adapter reads \(2, 6\)"):
        adapter.user_tokens(people()[:, 0])
    with pytest.raises(InputError, match="already has an adapter"):
        fresh(backbone).attach(backbone)


@torch.inference_mode()
def test_after_the_block_it_is_the_base_again_also_when_it_failed(
    backbone: StableCascadeBackbone, inputs: tuple
) -> None:
    base = backbone.predict(*inputs)
    adapter = trained(backbone)
    with adapter.users(people()):
        inside = backbone.predict(*inputs)
        with adapter.users(None):
            assert torch.equal(backbone.predict(*inputs), base)
        assert torch.equal(backbone.predict(*inputs), inside), "the outer block's users are back"
    assert not torch.equal(inside, base)
    assert torch.equal(backbone.predict(*inputs), base)
    with pytest.raises(KeyboardInterrupt), adapter.users(people()):
        raise KeyboardInterrupt
    assert torch.equal(backbone.predict(*inputs), base)
