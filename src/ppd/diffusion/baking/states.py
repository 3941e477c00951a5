"""What a baked LoRA is fitted to: the noisy latents that a user's sampler visits, and what it predicts there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.sampling.sampler import Guidance
from ppd.seeding import generator
from ppd.settings import SamplingSettings


@dataclass(frozen=True)
class States:
    """N states of samplers, on the CPU. Text guidance is in `target` and `base`: they are what a step is made of."""

    x_t: Tensor
    """[N, C, h, w]"""
    t: Tensor
    """[N]"""
    caption: Tensor
    """[N] row numbers into `text`."""
    target: Tensor
    """[N, C, h, w] what the sampler predicts for the user."""
    base: Tensor
    """[N, C, h, w] what it predicts at the same state for nobody."""
    text: Text
    """The captions, and the empty one last."""

    def __len__(self) -> int:
        return len(self.t)

    def tensors(self) -> dict[str, Tensor]:
        parts = {"x_t": self.x_t, "t": self.t, "caption": self.caption, "target": self.target, "base": self.base}
        return parts | {f"text.{name}": part for name, part in self.text.tensors().items()}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> "States":
        """Of what `tensors` gave."""
        text = {name.removeprefix("text."): part for name, part in tensors.items() if name.startswith("text.")}
        return States(**{n: p for n, p in tensors.items() if not n.startswith("text.")}, text=Text(**text))


@torch.no_grad()
def visited(
    backbone: Backbone,
    adapter: UserAttention,
    user: Tensor,
    captions: Sequence[str],
    settings: SamplingSettings,
    *,
    key: str,
) -> States:
    """Sample for the user [rows, dim] once for each of `captions` (which may repeat), and keep every step's state.

    key: another one, other noise. All of `settings` counts, also where the user acts at some noise levels alone.
    """
    distinct = sorted(set(captions))
    text = Text.cat([backbone.encode_captions([caption]) for caption in [*distinct, ""]])
    numbers = torch.tensor([distinct.index(caption) for caption in captions])
    kept: list[tuple[Tensor, ...]] = []
    for start in range(0, len(captions), settings.batch_size):
        rows = numbers[start : start + settings.batch_size]
        users = user.to(backbone.device).expand(len(rows), -1, -1)
        base = Guidance(backbone, text[rows], text[-1:], None, settings, None)
        ours = Guidance(backbone, text[rows], text[-1:], users, settings, adapter)
        random = generator("bake", key, start)
        shape = (len(rows), backbone.latent_channels, *settings.latent_size)

        def predict(x: Tensor, t: Tensor, rows: Tensor = rows, base: Guidance = base, ours: Guidance = ours) -> Tensor:
            each = t.expand(len(x))
            of_base, target = base.predict(x, each), ours.predict(x, each)
            kept.append((x.cpu(), each.cpu(), rows, target.cpu(), of_base.cpu()))
            return target

        def fresh(shape: tuple[int, ...] = shape, random: torch.Generator = random) -> Tensor:
            return torch.randn(shape, generator=random).to(backbone.device)

        backbone.process.denoise(predict, fresh(), settings, fresh)
    x_t, t, caption, target, of_base = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return States(x_t, t, caption, target, of_base, text.to(torch.device("cpu")))
