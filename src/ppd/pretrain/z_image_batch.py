"""Z-Image's forward for batches of one size: diffusers' takes lists, and prepares every image by itself.

What it computes is the same (a test compares). On a CPU it is no faster; for a GPU it saves launching some twenty small
kernels an image and forward, which cost a small network more than its arithmetic.
"""

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ppd.errors import InputError

PATCH = 2


class RealRotaryProcessor:
    """`ZSingleStreamAttnProcessor` for rotations given as (cos, sin), [1, L, 1, d/2, 2]: compilers know no complex."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        assert freqs_cis is not None
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (_rotated(x, freqs_cis).to(value.dtype) for x in (attn.norm_q(query), attn.norm_k(key)))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return attn.to_out[0](scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Neighbouring pairs of x [B, L, heads, d] turned by their angles, in fp32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class BatchedZImage:
    """Calls `transformer` on whole tensors; captions take one block of `SEQ_MULTI_OF` tokens."""

    def __init__(self, transformer: ZImageTransformer2DModel, image_px: int) -> None:
        """image_px: height and width of the latents."""
        tokens = (image_px // PATCH) ** 2
        if tokens % SEQ_MULTI_OF:
            raise InputError(f"{tokens} tokens an image; expected a multiple of {SEQ_MULTI_OF}, which needs no padding")
        self.transformer, self.side = transformer, image_px // PATCH
        for module in transformer.modules():
            if isinstance(module, Attention):
                module.set_processor(RealRotaryProcessor())
        grid = transformer.create_coordinate_grid
        # Captions come first on the axis of frames, from 1; the image follows them.
        self.caption_rotation = self._rotation(grid((SEQ_MULTI_OF, 1, 1), (1, 0, 0)))
        self.image_rotation = self._rotation(grid((1, self.side, self.side), (SEQ_MULTI_OF + 1, 0, 0)))

    def _rotation(self, positions: Tensor) -> Tensor:
        complex_ = self.transformer.rope_embedder(positions.flatten(0, 2).to(self.transformer.device))
        return torch.view_as_real(complex_)[None, :, None].contiguous()

    def captions(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Captions [N, T, D] with their mask [N, T], T <= 32, as the layers see them: [N, 32, dim].

        They depend on neither image nor noise: of equal captions, one is enough.
        """
        room = SEQ_MULTI_OF - hidden.shape[1]
        x = self.transformer.cap_embedder(pad(hidden, (0, 0, 0, room)))
        x = torch.where(pad(mask, (0, room)).bool()[..., None], x, self.transformer.cap_pad_token.to(x.dtype))
        for layer in self.transformer.context_refiner:
            x = layer(x, None, self.caption_rotation)
        return x

    def velocity(self, x_sigma: Tensor, sigma: Tensor, captions: Tensor) -> Tensor:
        """v̂ = ε − x_0, as diffusers' pipeline reads it: the network's output negated, its time 1 − σ.

        x_sigma [B, C, h, w], sigma [B], captions [B, 32, dim] -> [B, C, h, w] in fp32.
        """
        net, n, channels, side = self.transformer, len(x_sigma), x_sigma.shape[1], self.side
        time = net.t_embedder((1 - sigma) * net.t_scale).type_as(x_sigma)
        patches = x_sigma.view(n, channels, side, PATCH, side, PATCH).permute(0, 2, 4, 3, 5, 1)
        x = net.all_x_embedder[f"{PATCH}-1"](patches.reshape(n, side * side, -1))
        for layer in net.noise_refiner:
            x = layer(x, None, self.image_rotation, time)
        x = torch.cat([x, captions], dim=1)
        rotation = torch.cat([self.image_rotation, self.caption_rotation], dim=1)
        for layer in net.layers:
            x = layer(x, None, rotation, time)
        x = net.all_final_layer[f"{PATCH}-1"](x[:, : side * side], c=time)
        x = x.view(n, side, side, PATCH, PATCH, channels).permute(0, 5, 1, 3, 2, 4)
        return -x.reshape(x_sigma.shape).float()
