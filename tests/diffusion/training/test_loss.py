import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ppd.diffusion.training.loss import (
    denoising_error,
    dispersion_loss,
    margin,
    preference_loss,
    safeguarded_loser_error,
)

BETA = 5000.0


@pytest.fixture
def predictions() -> tuple[Tensor, ...]:
    """ε, and ε̂ of winner and loser by the model and by the reference, close to each other as in training."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 4, 5, 5, generator=g)
    w, l = (noise + torch.randn(noise.shape, generator=g) * 0.3 for _ in range(2))  # noqa: E741
    return noise, w, l, w + torch.randn(w.shape, generator=g) * 0.01, l + torch.randn(l.shape, generator=g) * 0.01


def test_against_the_equation_in_float64(predictions: tuple[Tensor, ...]) -> None:
    noise, w, l, ref_w, ref_l = (p.numpy().astype(np.float64) for p in predictions)  # noqa: E741
    total = 0.0
    for i in range(len(noise)):
        e = [np.mean((p[i] - noise[i]) ** 2) for p in (w, l, ref_w, ref_l)]
        m = (e[0] - e[1]) - (e[2] - e[3])
        total += -math.log(1 / (1 + math.exp(BETA / 2 * m)))
    noise_, *p = predictions
    ours = preference_loss(margin(*(denoising_error(x, noise_) for x in p)), BETA)
    assert ours.item() == pytest.approx(total / len(noise), rel=1e-3)


def test_ln_2_where_the_model_is_the_reference(predictions: tuple[Tensor, ...]) -> None:
    noise, w, l, *_ = predictions  # noqa: E741
    e_w, e_l = denoising_error(w, noise), denoising_error(l, noise)
    assert preference_loss(margin(e_w, e_l, e_w, e_l), BETA).item() == np.float32(math.log(2))


def test_mean_of_the_logs_not_log_of_the_mean() -> None:
    m = torch.tensor([-1.0, 1.0])
    assert preference_loss(m, 2.0).item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2)
    assert preference_loss(m, 2.0).item() > math.log(2) + 0.1


def test_a_large_margin_neither_overflows_nor_loses_its_gradient() -> None:
    m = torch.tensor([1.0], requires_grad=True)
    loss = preference_loss(m, 5000.0)
    loss.backward()
    assert loss.item() == pytest.approx(2500)
    assert m.grad.item() == pytest.approx(2500)


def test_weights_multiply_each_pairs_loss() -> None:
    m = torch.tensor([-0.5, 0.2, 0.1])
    singles = [preference_loss(m[i : i + 1], 3.0).item() for i in range(3)]
    weighted = preference_loss(m, 3.0, torch.tensor([2.0, 0.0, 1.0])).item()
    assert weighted == pytest.approx((2 * singles[0] + singles[2]) / 3)


@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_safeguard_never_lets_a_step_raise_the_winners_error(slack: float) -> None:
    """Take the gradient step in output space, where the rule is exact to first order, and look at the winner."""
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(200, 1, 2, 2, generator=g)
    shift = torch.randn(noise.shape, generator=g)
    step = shift.clone().requires_grad_()  # parameters that move both predictions alike
    w0, l0 = (torch.randn(noise.shape, generator=g) for _ in range(2))

    def winner_change(safe: bool) -> Tensor:
        w, l = w0 + step - shift, l0 + step - shift  # noqa: E741
        e_w, e_l = denoising_error(w, noise), denoising_error(l, noise)
        if safe:
            guarded = safeguarded_loser_error(e_l, w - noise, l - noise, slack)
            torch.testing.assert_close(guarded, e_l)
            e_l = guarded
        (gradient,) = torch.autograd.grad((e_w - e_l).sum(), step)
        moved = w.detach() - 1e-3 * gradient
        return denoising_error(moved, noise) - e_w.detach()

    assert winner_change(safe=False).max() > 1e-5
    assert winner_change(safe=True).max() <= 1e-6


def test_safeguard_scales_the_losers_gradient_by_the_bound() -> None:
    """λ = min(1, (1 − μ)·|g_w|²/⟨g_w, g_l⟩) in four pairs, and 1 where the winner's prediction is perfect already."""
    residual_w = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.1, 0.0], [1.0, 0.0], [0.0, 0.0]]).view(5, 2, 1, 1)
    residual_l = torch.tensor([[1.0, 5.0], [3.0, 1.0], [0.5, 0.0], [-9.0, 1.0], [1.0, 1.0]]).view(5, 2, 1, 1)
    error_l = torch.arange(1.0, 6.0, requires_grad=True)
    guarded = safeguarded_loser_error(error_l, residual_w, residual_l, 0.25)
    assert guarded.tolist() == error_l.tolist()
    guarded.sum().backward()
    bounds = [0.75 * 4 / 2, 0.75 * 2 / 4, 0.75 * 0.01 / 0.05]
    assert error_l.grad.tolist() == pytest.approx([1.0, *bounds[1:], 1.0, 1.0])
    assert bounds[0] > 1


def test_safeguard_leaves_a_harmless_loser_alone() -> None:
    residual_w = torch.ones(1, 1, 2, 2)
    residual_l = torch.full((1, 1, 2, 2), -1.0, requires_grad=True)
    error = denoising_error(residual_l, torch.zeros(1, 1, 2, 2))
    safeguarded_loser_error(error, residual_w, residual_l, 0.0).sum().backward()
    torch.testing.assert_close(residual_l.grad, torch.full((1, 1, 2, 2), -0.5))


def test_dispersion_is_infonce_over_other_people() -> None:
    z = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(2))
    user = torch.tensor([0, 0, 1, 2])
    flat = z.flatten(1).double().numpy()
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if user[j] != user[i]]
        own = math.exp(1 / 0.2)
        total += -math.log(own / (own + sum(math.exp(flat[i] @ flat[j] / 0.2) for j in others)))
    assert dispersion_loss(z, user, 0.2).item() == pytest.approx(total / 4, rel=1e-5)
    assert dispersion_loss(z, torch.zeros(4), 0.2).item() == 0
