"""Z-Image's attention, in which image and caption are one stream, with a user beside it for the image's queries."""

from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ppd.diffusion.model.attention import UserProcessor


@dataclass
class ImageTokens:
    """How many tokens the images of the current forward have; they come first in the stream."""

    n: int = 0


class SingleStreamAttention(UserProcessor):
    """Beside `ZSingleStreamAttnProcessor`, operation by operation.

    The user is asked by the image's queries after their norm and before their rotation: a user has no place in the
    picture, and is as near to every part of it. Caption and padding get nothing from the user.
    """

    def __init__(self, image_tokens: ImageTokens) -> None:
        super().__init__()
        self.image_tokens = image_tokens

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """hidden_states [B, L, C], attention_mask [B, L] bool, freqs_cis [B, L, d/2] complex -> [B, L, C]."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )  # [B, L, heads, d]
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        of_user = self.beside(query[:, : self.image_tokens.n].transpose(1, 2))
        if freqs_cis is not None:
            query, key = rotated(query, freqs_cis), rotated(key, freqs_cis)
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None, :]
        z = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, dropout_p=0.0, is_causal=False)
        if of_user is not None:
            n = self.image_tokens.n
            z = torch.cat([z[:, :n] + of_user.transpose(1, 2), z[:, n:]], dim=1)
        out = attn.to_out[0](z.flatten(2, 3).to(query.dtype))
        return attn.to_out[1](out) if len(attn.to_out) > 1 else out


def rotated(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Rotary positions: neighbouring pairs of x [B, L, heads, d] times freqs_cis [B, L, d/2], in fp32."""
    with torch.autocast(x.device.type, enabled=False):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs_cis.unsqueeze(2)).flatten(3).type_as(x)
