"""What the loss and the sampler need of a text-to-image model, and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


@dataclass(frozen=True)
class Text:
    """Captions as a backbone reads them: tokens [B, T, D], pooled [B, P]."""

    tokens: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> "Text":
        return Text(self.tokens[rows], self.pooled[rows])

    def to(self, device: torch.device) -> "Text":
        return Text(self.tokens.to(device), self.pooled.to(device))

    @classmethod
    def cat(cls, texts: Sequence[Self]) -> "Text":
        return Text(torch.cat([text.tokens for text in texts]), torch.cat([text.pooled for text in texts]))


class Codec(Protocol):
    """Between images [B, 3, H, W] in [0, 1] and the latents [B, C, h, w] that a backbone denoises.

    A decoder may be a model that draws: it is told each row's caption and gets a generator a row.
    """

    @property
    def encoder_fingerprint(self) -> str:
        """Names what decides the latents, by content."""
        ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor: ...


class Backbone(Protocol):
    """A frozen text-to-image diffusion model.

    t in (0, 1] is the noise level, one a row, always fp32. Latents and noise are [B, C, h, w]. Nothing here knows of
    people: the user attention plugs into `attention_blocks`.
    """

    @property
    def base_id(self) -> str:
        """Where the weights came from, for messages and records."""
        ...

    @property
    def revision(self) -> str:
        """The commit of the weights at their origin, or "local"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the weights by content; the same whichever folder or dtype they were loaded from."""
        ...

    @property
    def encoders_fingerprint(self) -> str:
        """Names what encodes captions and images, by content."""
        ...

    @property
    def network(self) -> nn.Module:
        """The denoising network: frozen, in eval mode."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def latent_channels(self) -> int: ...

    def encode_captions(self, captions: Sequence[str]) -> Text: ...

    def encode_images(self, images: Tensor) -> Tensor: ...

    def decode_latents(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1]. text: the B captions; randoms: a generator a row, for a decoder that draws."""
        ...

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Signal share ᾱ(t) in x_t = √ᾱ·x_0 + √(1−ᾱ)·ε: [B] -> [B], fp32."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """ε̂ in fp32, whatever the network itself predicts."""
        ...

    def attention_blocks(self) -> Mapping[str, Attention]:
        """The attention layers that may take a user, in the order of the forward pass; names hold no dot."""
        ...

    def enable_gradient_checkpointing(self) -> None: ...

    def compile(self) -> None:
        """Compile the denoising network in place."""
        ...


def add_noise(backbone: Backbone, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = √ᾱ(t)·x_0 + √(1−ᾱ(t))·ε, all in fp32."""
    alpha_bar = backbone.alpha_bar(t)[:, None, None, None]
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
