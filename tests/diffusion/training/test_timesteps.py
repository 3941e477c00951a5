import torch

from ppd.diffusion.training.timesteps import importance_weights, noise_levels, stratified
from ppd.settings import TimestepSettings

LAW = TimestepSettings(low=0.6, high=0.998, power=1.7)


def test_stratified_draws_fill_every_stratum_once_in_random_order() -> None:
    r = stratified(64, torch.Generator().manual_seed(0))
    assert torch.equal((r * 64).long().sort().values, torch.arange(64))
    assert not torch.equal(r.sort().values, r)


def test_levels_stay_in_range_and_dwell_at_high_noise() -> None:
    t = noise_levels(stratified(10_000, torch.Generator().manual_seed(0)), LAW)
    assert t.min() >= 0.6
    assert t.max() <= 0.998
    assert (t > 0.799).float().mean() > 0.6
    uniform = noise_levels(stratified(10_000, torch.Generator().manual_seed(0)), TimestepSettings(low=0.6, power=1))
    assert abs((uniform > 0.799).float().mean() - 0.5) < 0.01


def test_importance_weights_give_the_mean_under_uniform_t() -> None:
    r = stratified(100_000, torch.Generator().manual_seed(0))
    t, weight = noise_levels(r, LAW), importance_weights(r, LAW)
    assert abs(weight.mean() - 1) < 1e-3
    uniform = torch.linspace(LAW.low, LAW.high, 100_000)
    assert abs((weight * t.square()).mean() - uniform.square().mean()) < 1e-3


def test_a_logit_normal_has_the_normal_quantiles_between_its_ends() -> None:
    r = stratified(100_000, torch.Generator().manual_seed(0))
    t = noise_levels(r, TimestepSettings(distribution="logit-normal", low=1e-4, high=1.0, power=1))
    z = torch.logit(t.double())
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    inner = noise_levels(r, TimestepSettings(distribution="logit-normal", low=0.3, high=0.9, power=1))
    assert (inner.min() >= 0.3, inner.max() <= 0.9) == (True, True)
    assert ((inner - 0.3).abs() < 1e-3).float().mean() < 0.01, "cut off, not piled up at its ends"
    middle = t[(t > 0.3) & (t < 0.9)].median()
    assert abs(inner.median() - middle) < 0.01


def test_a_shift_moves_levels_towards_noise_as_flows_do() -> None:
    r = stratified(1000, torch.Generator().manual_seed(0))
    plain, shifted = (noise_levels(r, TimestepSettings(low=0.001, high=1, power=1, shift=s)) for s in (1.0, 6.0))
    torch.testing.assert_close(shifted, 6 * plain / (1 + 5 * plain))
    assert shifted.max() <= 1
