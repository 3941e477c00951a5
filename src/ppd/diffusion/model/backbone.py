"""What the loss and the sampler need of a text-to-image model, and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import pad

from ppd.device import sent
from ppd.diffusion.model.attention import UserProcessor
from ppd.diffusion.model.process import Process


@dataclass(frozen=True)
class Text:
    """Captions as a backbone reads them: tokens [B, T, D], and what else it takes; all rows have the same parts."""

    tokens: Tensor
    pooled: Tensor | None = None
    """[B, P], for bases that read a whole caption as one vector too."""
    lengths: Tensor | None = None
    """[B] int64, always on the CPU: how many of the T tokens are the caption's. None: all of them are read."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> "Text":
        pooled, lengths = self.pooled, self.lengths
        return Text(
            self.tokens[rows],
            None if pooled is None else pooled[rows],
            None if lengths is None else lengths[rows.cpu() if isinstance(rows, Tensor) else rows],
        )

    def to(self, device: torch.device) -> "Text":
        pooled = None if self.pooled is None else sent(self.pooled, device)
        return Text(sent(self.tokens, device), pooled, self.lengths)

    @property
    def vectors(self) -> Tensor:
        """`pooled`, for what cannot do without."""
        if self.pooled is None:
            raise ValueError("this text has no pooled part")
        return self.pooled

    def tensors(self) -> dict[str, Tensor]:
        """The parts that there are, by name: `Text(**text.tensors())` is the same text."""
        parts = {"tokens": self.tokens, "pooled": self.pooled, "lengths": self.lengths}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def cat(cls, texts: Sequence[Self]) -> "Text":
        """One after the other; shorter ones are filled up with zeros, which no backbone reads."""
        longest = max(text.tokens.shape[1] for text in texts)
        filled = [text.tensors() for text in texts]
        for parts in filled:
            parts["tokens"] = pad(parts["tokens"], (0, 0, 0, longest - parts["tokens"].shape[1]))
        return Text(**{name: torch.cat([parts[name] for parts in filled]) for name in filled[0]})


class Codec(Protocol):
    """Between images [B, 3, H, W] in [0, 1] and the latents [B, C, h, w] that a backbone denoises.

    A decoder may be a model that draws: it is told each row's caption and gets a generator a row.
    """

    @property
    def encoder_fingerprint(self) -> str:
        """Names what decides the latents, by content."""
        ...

    @property
    def pixels_per_latent(self) -> int:
        """Of the images that are encoded, along each side."""
        ...

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor, text: Text, randoms: Sequence[torch.Generator]) -> Tensor: ...


class Backbone(Protocol):
    """A frozen text-to-image model, and the process that it was trained for.

    t in (0, 1] is the noise level, one a row, always fp32. Latents and noise are [B, C, h, w]. Nothing here knows of
    people: their keys and values are plugged into the `attention_blocks`, each with a `user_processor`.
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
    def process(self) -> Process:
        """Noising, the target of training, and the sampler's steps."""
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

    def predict(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """The network's answer at x_t, in fp32: what `process.target` is compared with."""
        ...

    def guide(self, near: Tensor, far: Tensor, strength: float) -> Tensor:
        """far + strength·(near − far), in the order of operations of the base's own pipeline."""
        ...

    def text_lengths(self, text: Text) -> list[int]:
        """Tokens that each caption is computed with, filling included: captions of different ones share no batch when
        images are sampled, since one's last digit would depend on the other."""
        ...

    def attention_blocks(self) -> Mapping[str, Attention]:
        """The attention layers that may take a user, in the order of the forward pass; names hold no dot."""
        ...

    def user_processor(self) -> UserProcessor:
        """A processor for one of `attention_blocks`: the library's own attention, and beside it that to a user."""
        ...

    def repeated_blocks(self) -> Sequence[nn.Module]:
        """The modules that the network repeats, in the order of the forward pass: they can be compiled one by one."""
        ...

    def enable_gradient_checkpointing(self, share: float = 1.0) -> None:
        """Keep only the inputs of a `share` of these blocks for the backward pass, and compute the rest again there."""
        ...
