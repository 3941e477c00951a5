"""The adapter: a decoupled cross-attention to the user beside each attention of a frozen backbone.

    Z' = softmax(Q·Kᵀ/√d)·V + softmax(Q·K'ᵀ/√d)·V',   K' = x·W'_k,  V' = x·W'_v,  x = user tokens, linear in u

Q is the backbone's own (IP-Adapter, arXiv 2308.06721; PPD, arXiv 2501.06655). No map on u's path to V' has a bias, and
W'_v starts at zero, so the branch adds exactly zero for u = 0 always, and for every u before training: no user *is*
the base.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self, cast

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import linear

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.model.attention import UserProcessor
from ppd.diffusion.model.backbone import Backbone
from ppd.errors import InputError
from ppd.settings import UserAttentionSettings


class UserKeyValue(nn.Module):
    """W'_k and W'_v of one attention block."""

    def __init__(self, token_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(token_dim, inner_dim, bias=False)
        self.to_v = nn.Linear(token_dim, inner_dim, bias=False)
        nn.init.zeros_(self.to_v.weight)


class UserAttention(nn.Module):
    """Weights of the adapter, and the switch that says for whom the backbone draws.

    embedding_shape: (rows, dim) of a person's embedding. block_dims: inner width of each attention block that takes a
    user, by name. The module holds nothing of the backbone: `attach` plugs it in, `detach` gives the bare base back.
    lora: low-rank weights of the base that act where there is a user. With them there may be no block at all: then
    every user is the same, and only whether there is one matters.
    """

    def __init__(
        self,
        embedding_shape: tuple[int, int],
        block_dims: Mapping[str, int],
        settings: UserAttentionSettings,
        lora: LowRank | None = None,
    ) -> None:
        super().__init__()
        rows, dim = embedding_shape
        self.embedding_shape = embedding_shape
        self.block_dims = dict(block_dims)
        self.settings = settings
        # One map a row: the rows are layers of a language model and share no basis.
        to_tokens = torch.randn(rows, dim, settings.tokens_per_row * settings.token_dim) * dim**-0.5
        self.to_tokens: Tensor | None
        self.register_parameter("to_tokens", nn.Parameter(to_tokens) if block_dims else None)
        self.blocks = nn.ModuleDict({name: UserKeyValue(settings.token_dim, d) for name, d in block_dims.items()})
        # Set for a pooled method: the one embedding [rows, dim] that stands for all users.
        self.pooled_embedding: Tensor | None
        self.register_buffer("pooled_embedding", None)
        self.lora: LowRank | None = lora
        self._processors: dict[str, UserProcessor] = {}  # of the backbone that it is attached to, and none before
        self._dtype = torch.float32  # likewise
        self._detached: list[tuple[Attention, Any]] = []

    @classmethod
    def beside(
        cls, backbone: Backbone, embedding_shape: tuple[int, int], settings: UserAttentionSettings
    ) -> "UserAttention":
        """A fresh adapter for the blocks of `backbone` that `settings.blocks` selects, not yet attached."""
        every = backbone.attention_blocks()
        chosen = {name: block.inner_dim for name, block in every.items() if re.fullmatch(settings.blocks, name)}
        if not chosen:
            raise InputError(
                f"attention.blocks {settings.blocks!r} matches no block of {backbone.base_id}; "
                f"there are {', '.join(every)}"
            )
        return cls(embedding_shape, chosen, settings).to(backbone.device)

    def user_tokens(self, users: Tensor) -> Tensor:
        """u [B, rows, dim] -> tokens [B, rows·tokens_per_row, width], linear in u and without a bias.

        A pooled adapter reads every u but zero as the one embedding that stands for everybody.
        """
        self._check(users)
        if self.pooled_embedding is not None:
            users = (users != 0).any(dim=(1, 2), keepdim=True) * self.pooled_embedding
        tokens = torch.einsum("brd,rdw->brw", users, cast(Tensor, self.to_tokens))
        return tokens.reshape(len(users), -1, self.settings.token_dim)

    def keys_and_values(self, users: Tensor) -> list[tuple[Tensor, Tensor]]:
        """K' and V' of each block for u [B, rows, dim]: [B, n, inner] each, in the order of `blocks`.

        All blocks at once: one product in the fp32 of the weights, rounded once to what the backbone computes in. Block
        by block it would be hundreds of launches of kernels too small for a GPU.
        """
        tokens = self.user_tokens(users)
        blocks = [cast(UserKeyValue, block) for block in self.blocks.values()]
        maps = [weight for block in blocks for weight in (block.to_k.weight, block.to_v.weight)]
        parts = linear(tokens, torch.cat(maps)).to(self._dtype).split([len(weight) for weight in maps], dim=-1)
        return list(zip(parts[::2], parts[1::2], strict=True))

    @contextmanager
    def users(self, users: Tensor | None) -> Iterator[None]:
        """Draw for these people inside the block: u [B, rows, dim], a row of zeros for nobody; None for the bare base.

        Keep the block open until `backward` is done: gradient checkpointing runs the forward again there.
        """
        before = [processor.user for processor in self._processors.values()]
        self._set([None] * len(before) if users is None or not before else self.keys_and_values(users))
        try:
            with self._low_rank(users):
                yield
        finally:
            self._set(before)

    def train(self, mode: bool = True) -> Self:
        """In training mode a CPU computes attention in bf16 its own way (`ppd.diffusion.model.attention.attend`)."""
        for processor in self._processors.values():
            processor.training = mode
        return super().train(mode)

    def _set(self, users: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        for processor, user in zip(self._processors.values(), users, strict=True):
            processor.user = user

    def _low_rank(self, users: Tensor | None) -> AbstractContextManager[None]:
        if self.lora is None:
            return nullcontext()
        if users is None:
            return self.lora.resting()
        self._check(users)
        return self.lora.acting(users)

    def _check(self, users: Tensor) -> None:
        if users.shape[1:] != self.embedding_shape:
            raise InputError(
                f"user embeddings of (rows, dim) {tuple(users.shape[1:])}; this adapter reads {self.embedding_shape}"
            )

    def attach(self, backbone: Backbone) -> None:
        """Put the user branch beside the backbone's attention blocks. Only one adapter at a time."""
        blocks = backbone.attention_blocks()
        for name in self.blocks:
            if isinstance(blocks[name].processor, UserProcessor):
                raise InputError(f"attention block {name} already has an adapter attached", fix="Detach it first")
        for name in self.blocks:
            self._detached.append((blocks[name], blocks[name].processor))
            self._processors[name] = backbone.user_processor()
            self._processors[name].training = self.training
            blocks[name].set_processor(self._processors[name])
            self._dtype = blocks[name].to_q.weight.dtype

    def detach(self) -> None:
        """Give the backbone its own processors back: it is bit for bit what it was."""
        for block, processor in self._detached:
            block.set_processor(processor)
        self._detached.clear()
        self._processors.clear()
