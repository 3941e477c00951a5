"""Which noise levels training looks at."""

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from ppd.settings import TimestepSettings


def stratified(n: int, generator: torch.Generator) -> Tensor:
    """n numbers in [0, 1), one in each n-th part, shuffled: [n]. A batch then covers all noise levels evenly."""
    inside = torch.rand(n, generator=generator, dtype=torch.float64)
    order = torch.randperm(n, generator=generator)
    return ((order + inside) / n).float()


def noise_levels(r: Tensor, distribution: TimestepSettings) -> Tensor:
    """The quantile function of the distribution, from high t to low, at r in [0, 1): [B] -> [B], in (0, 1]."""
    low, high = distribution.low, distribution.high
    if distribution.distribution == "power":
        t = high - (high - low) * r**distribution.power
    else:  # of a standard normal between logit(low) and logit(high), then back
        bottom, top = ndtr(torch.logit(torch.tensor([low, high], dtype=torch.float64)))
        t = torch.sigmoid(ndtri(top - (top - bottom) * r.double())).float()
    return distribution.shift * t / (1 + (distribution.shift - 1) * t)


def importance_weights(r: Tensor, distribution: TimestepSettings) -> Tensor:
    """Density of uniform t in [low, high] over this one's at t(r): power·r^(power−1), of mean 1 under this one."""
    return distribution.power * r ** (distribution.power - 1)
