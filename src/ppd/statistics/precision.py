"""Do pictures stay in the world they were trained on? Reward hacking shows here before an eye sees it.

Improved precision (Kynkäänniemi et al. 2019, arXiv 1904.06991): the share of generated images whose features fall
within the k-th-neighbour ball of at least one real image.
"""

import torch
from torch import Tensor


def precision(generated: Tensor, real: Tensor, k: int = 3) -> float:
    """Share of `generated` [N, D] within the manifold of `real` [M, D], features of one encoder. M must exceed k."""
    return float(in_manifold(generated, real, k).double().mean())


def in_manifold(generated: Tensor, real: Tensor, k: int = 3) -> Tensor:
    """Whether each of `generated` is: bool [N]."""
    if len(real) <= k:
        raise ValueError(f"{len(real)} real images cannot have a {k}-th neighbour each")
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest is the image itself
    return (torch.cdist(generated, real) <= radius).any(dim=1)
