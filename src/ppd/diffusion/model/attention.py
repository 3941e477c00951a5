"""Attention as diffusers computes it, and beside it attention to a user.

Processors, so that a block keeps its class, its parameters and its state dict. Which one fits is the backbone's to say;
K' and V' are the adapter's (`ppd.diffusion.adapter.user_attention`).
"""

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class UserProcessor:
    """Base of the processors that a user is plugged into. Without one they compute what the library's own do."""

    def __init__(self) -> None:
        self.user: tuple[Tensor, Tensor] | None = None
        """K' and V' [B, n, inner] of the users of now; None switches the branch off."""
        self.training = True

    def beside(self, query: Tensor) -> Tensor | None:
        """softmax(Q·K'ᵀ/√d)·V' of the queries [B, heads, L, d], in their shape and dtype; None without a user."""
        if self.user is None:
            return None
        key, value = (split_heads(part, query.shape[1]) for part in self.user)
        return attend(query, key, value, training=self.training)


class CrossAttention(UserProcessor):
    """Beside `AttnProcessor2_0`, operation by operation, for the text attention of Stable Cascade and of a
    UNet2DConditionModel (no norms of q and k, no residual, no mask)."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: None
    ) -> Tensor:
        """hidden_states [B, C, h, w] or [B, L, C] attends to encoder_hidden_states [B, S, C] and to the user."""
        x = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states  # [B, L, C]
        context = x if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(attn.to_q(x), attn.heads)
        key, value = split_heads(attn.to_k(context), attn.heads), split_heads(attn.to_v(context), attn.heads)
        z = attend(query, key, value, training=self.training)
        if (of_user := self.beside(query)) is not None:
            z = z + of_user
        out = attn.to_out[1](attn.to_out[0](z.transpose(1, 2).flatten(2)))
        return out.transpose(1, 2).reshape(hidden_states.shape) if hidden_states.ndim == 4 else out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads·d] -> [B, heads, L, d]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, *, training: bool) -> Tensor:
    """softmax(Q·Kᵀ/√d)·V over [B, heads, L, d].

    By the library's fused kernel, so that without users the backbone's output is the base's to the last bit; but
    backwards in bf16 on a CPU that takes up to six times as long as two products, which stand in while training.
    """
    if training and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(dim=-1) @ value
    return scaled_dot_product_attention(query, key, value)
