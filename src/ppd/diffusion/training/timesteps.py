"""Which noise levels training looks at."""

import torch
from torch import Tensor

from ppd.settings import TimestepSettings


def stratified(n: int, generator: torch.Generator) -> Tensor:
    """n numbers in [0, 1), one in each n-th part, shuffled: [n]. A batch then covers all noise levels evenly."""
    inside = torch.rand(n, generator=generator, dtype=torch.float64)
    order = torch.randperm(n, generator=generator)
    return ((order + inside) / n).float()


def noise_levels(r: Tensor, distribution: TimestepSettings) -> Tensor:
    """t = high − (high − low)·r^power for r uniform in [0, 1): [B] -> [B], in (0, 1]."""
    return distribution.high - (distribution.high - distribution.low) * r**distribution.power


def importance_weights(r: Tensor, distribution: TimestepSettings) -> Tensor:
    """Density of uniform t in [low, high] over this one's at t(r): power·r^(power−1), of mean 1 under this one."""
    return distribution.power * r ** (distribution.power - 1)
