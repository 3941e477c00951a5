"""What is done to a network block by block: compiling it, and recomputing a share of it in the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

BACKEND = "inductor"


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block's forward for the shapes that it meets; blocks of one class and shape share their code.

    Block by block and not the network as a whole, which takes minutes and is more than some releases of the compiler
    can do. A block is compiled when it is first called, so that is when the compiler fails, with whatever it raises.
    """
    # Shapes, with and without gradients, users or a skip connection: more variants than the default of 8.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.forward = torch.compile(type(block).forward.__get__(block), dynamic=False, backend=BACKEND)


def release_blocks(blocks: Iterable[nn.Module]) -> None:
    """Undo `compile_blocks`: each block has its class' forward again."""
    for block in blocks:
        block.__dict__.pop("forward", None)


def checkpoint_share(share: float) -> Callable[..., Any]:
    """How to call a block, for diffusers' `enable_gradient_checkpointing`: of `share` of them only inputs are kept.

    Evenly spread, and of each class of blocks the same share, because classes differ in what they keep. A frozen
    network in eval mode draws nothing, so no state of a random generator is kept.
    """
    places: dict[type[nn.Module], dict[nn.Module, int]] = {}

    def call(block: nn.Module, *args: Any) -> Any:
        alike = places.setdefault(type(block), {})
        place = alike.setdefault(block, len(alike))
        if int((place + 1) * share) == int(place * share):
            return block(*args)
        return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)

    return call
