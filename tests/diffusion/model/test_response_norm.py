"""Global response normalisation in steps that suit a CPU."""

import copy

import pytest
import torch
from diffusers.models.unets.unet_stable_cascade import GlobalResponseNorm
from torch import Tensor, nn

from ppd.diffusion.model.response_norm import faster_on_cpu
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone


def layers(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """The library's layer, and the same made faster."""
    own = GlobalResponseNorm(24)
    generator = torch.Generator().manual_seed(0)
    for weight in own.parameters():
        nn.init.normal_(weight, generator=generator)
    own = own.to(dtype)
    faster = copy.deepcopy(own)
    faster_on_cpu(faster)
    return own, faster


def x(dtype: torch.dtype) -> Tensor:
    of_channel = torch.logspace(-3, 3, 24)  # channels as unlike each other as after a GELU
    return (torch.randn(3, 5, 4, 24, generator=torch.Generator().manual_seed(1)) * of_channel).to(dtype)


def values(layer: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """What a layer gives, and the gradients of its input and weights."""
    given = x(dtype).requires_grad_()
    out = layer(given)
    (out * torch.linspace(-1, 1, 24).to(dtype)).sum().backward()
    return [out.detach(), given.grad, *(weight.grad for weight in layer.parameters())]  # type: ignore[list-item]


def test_it_is_the_librarys_forwards_and_backwards() -> None:
    own, faster = (values(layer, torch.float64) for layer in layers(torch.float64))
    for theirs, ours in zip(own, faster, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # norms are summed in fp32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_no_less_exact_than_the_librarys(dtype: torch.dtype) -> None:
    own, faster = layers(dtype)
    exact = own.double()(x(dtype).double()).detach()
    own = own.to(dtype)

    def error(out: Tensor) -> float:
        assert out.dtype is dtype
        return float(((out.detach() - exact).abs() / exact.abs().mean(dim=(0, 1, 2))).mean())

    assert error(faster(x(dtype))) < 1.1 * error(own(x(dtype)))


def test_a_channel_that_is_zero_everywhere_has_no_gradient_that_is_not_finite() -> None:
    """The root of a sum of squares has none at 0; the library's norm has one by definition."""
    for layer in layers(torch.float32):
        given = x(torch.float32)
        given[1, ..., 3] = 0
        given.requires_grad_()
        layer(given).sum().backward()
        assert given.grad is not None
        assert given.grad.isfinite().all()


def test_a_base_has_it_everywhere_and_keeps_its_weights(backbone: StableCascadeBackbone) -> None:
    """A copy has it too, with weights of its own."""
    found = [m for m in copy.deepcopy(backbone.unet).modules() if isinstance(m, GlobalResponseNorm)]
    assert found
    assert all(type(module) is not GlobalResponseNorm for module in found)
    with torch.no_grad():
        found[0].gamma.fill_(7.0)
        y = found[0](torch.ones(1, 2, 2, found[0].gamma.shape[-1]))
    torch.testing.assert_close(y, torch.full_like(y, 8.0) + found[0].beta, rtol=1e-4, atol=1e-4)
