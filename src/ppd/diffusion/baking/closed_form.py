"""The best low-rank update of each output projection, in closed form: where distillation starts.

Beside an attention whose heads join to z, the user adds y = W_o·softmax(Q·K'ᵀ/√d)·V' to the block's output W_o·z + b_o.
A LoRA of W_o can only add B·A·z + b, so it takes the B, A and b of least mean squared difference from y: reduced-rank
regression (Izenman 1975). Of one user token the softmax is 1: y is a constant, which b is exactly. Without a bias the
constant has to be found in z as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.baking.states import States
from ppd.diffusion.model.backbone import Backbone

RIDGE = 1e-6
"""Of the mean variance of z, added to each direction's: the equations stay solvable where z does not vary."""


class Moments:
    """Sums over rows of (z, 1)ᵀ(z, 1) and (z, 1)ᵀy, in float64."""

    def __init__(self) -> None:
        self.n = 0
        self.zz, self.zy = torch.zeros(()), torch.zeros(())

    def add(self, z: Tensor, y: Tensor) -> None:
        """z [..., D], y [..., C]: rows of one batch."""
        z, y = z.detach().flatten(0, -2).double(), y.detach().flatten(0, -2).double()
        z = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
        self.n += len(z)
        self.zz, self.zy = self.zz.to(z.device) + z.T @ z, self.zy.to(z.device) + z.T @ y


def reduced_rank(moments: Moments, rank: int, *, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """A [rank, D], B [C, rank] and b [C] of least squared |B·A·z + b − y|; b is None where it has to be 0."""
    zz, zy = moments.zz[:-1, :-1] / moments.n, moments.zy[:-1] / moments.n
    mean_z, mean_y = moments.zz[-1, :-1] / moments.n, moments.zy[-1] / moments.n
    if bias:
        zz, zy = zz - torch.outer(mean_z, mean_z), zy - torch.outer(mean_z, mean_y)
    ridge = RIDGE * zz.diagonal().mean() * torch.eye(len(zz), dtype=zz.dtype, device=zz.device)
    full = torch.linalg.solve(zz + ridge, zy).T  # [C, D]
    directions = torch.linalg.eigh(full @ zz @ full.T).eigenvectors.flip(1)[:, :rank]  # of what it explains, best first
    b, a = directions, directions.T @ full
    scale = a.norm(dim=1).clamp(min=1e-12).sqrt()
    a, b = a / scale[:, None], b * scale
    return a, b, mean_y - b @ (a @ mean_z) if bias else None


@torch.no_grad()
def start_in_closed_form(
    lora: LowRank,
    backbone: Backbone,
    adapter: UserAttention,
    user: Tensor,
    states: States,
    *,
    strength: float,
    size: int,
) -> None:
    """Set the weights beside every output projection with a user branch; other layers of `lora` keep B = 0.

    strength: what the user's part counts. size: states at once. Where the user does not act at a state, y is 0.
    """
    blocks = {name: block for name, block in backbone.attention_blocks().items() if name in adapter.blocks}
    moments = {name: Moments() for name in blocks}
    acts = (states.target != states.base).flatten(1).any(dim=1)
    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.enter_context(_watch(block, adapter, moments[name]))
        for rows in torch.arange(len(states)).split(size):
            users = user.expand(len(rows), -1, -1) * acts[rows, None, None]
            text = states.text[states.caption[rows]].to(backbone.device)
            with adapter.users(users.to(backbone.device)):
                backbone.predict(states.x_t[rows].to(backbone.device), states.t[rows].to(backbone.device), text)
    for name, block in blocks.items():
        layer = lora.around(block.to_out[0])
        if layer is None:
            continue
        a, b, constant = reduced_rank(moments[name], lora.settings.rank, bias=layer.lora_B["default"].bias is not None)
        scale = lora.settings.alpha / lora.settings.rank
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b * strength / scale)
        if constant is not None:
            layer.lora_B["default"].bias.copy_(constant * strength / scale)


@contextmanager
def _watch(block: Any, adapter: UserAttention, moments: Moments) -> Iterator[None]:
    """Inside, each call of an attention adds to `moments` what goes into its output projection and what users add."""
    seen: list[Tensor] = []
    inside = False

    def before_projection(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(inputs[0])

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        nonlocal inside
        if inside:
            return
        inside = True
        with adapter.users(None):
            y = output - module(*args, **kwargs)
        inside = False
        z = seen[-1]
        seen.clear()
        moments.add(z, y.flatten(2).transpose(1, 2) if y.ndim == 4 else y)

    hooks = [block.to_out[0].register_forward_pre_hook(before_projection)]
    hooks.append(block.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
