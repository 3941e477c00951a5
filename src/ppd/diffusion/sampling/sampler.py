"""Drawing images for people: a pure function of (caption, person, seed), whatever shares the batch.

Guidance with text strength s_c and user strength s_u, where ∅ is the empty caption or nobody:

    f = f(∅,∅) + s_c·(f(c,∅) − f(∅,∅)) + s_u·(f(c,u) − f(c,∅))

f is what the base's network predicts, ε, v or a velocity: at one x_t they are linear in each other, so it is one rule.

s_u = 0 is the base model, 1 is as trained, beyond 1 extrapolates. Outside `user_interval` s_u is 0: an adapter that was
trained at high noise has nothing to say at low noise, where the base draws the details (limited-interval guidance,
arXiv 2404.07724, on the user). Only the branches whose coefficient is not zero are computed, all in one forward.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.model.process import Process
from ppd.errors import InputError
from ppd.seeding import generator
from ppd.settings import SamplingSettings


@dataclass(frozen=True)
class Request:
    """One image to draw. user: a person's embedding [rows, dim], or None for the base model.

    The noise depends on caption and seed only, so the same request for two people starts from the same noise.
    """

    caption: str
    seed: int
    user: Tensor | None = None


def interpolate(a: Tensor, b: Tensor, n: int) -> list[Tensor]:
    """n embeddings from person a to person b [rows, dim], evenly spaced and linear, both ends included."""
    return [torch.lerp(a, b, share) for share in torch.linspace(0, 1, n).tolist()]


def sample(
    backbone: Backbone, requests: Sequence[Request], settings: SamplingSettings, adapter: UserAttention | None = None
) -> Iterator[np.ndarray]:
    """Images of `requests`, in their order, as uint8 [H, W, 3]; computed batch by batch as they are taken.

    adapter: attached to `backbone`; needed where a request has a user. Whether there is one decides which branches are
    computed, so a request for nobody is the same whoever shares its batch.
    """
    captions = sorted({request.caption for request in requests})
    # One by one, so that a caption's embedding does not depend on the other captions, not even in the last bit.
    texts = Text.cat([backbone.encode_captions([caption]) for caption in [*captions, ""]])
    row_of = {caption: row for row, caption in enumerate(captions)}
    lengths = backbone.text_lengths(texts)
    images: dict[int, np.ndarray] = {}  # sampled, and not their turn yet
    next_number = 0
    for numbers in _batches([lengths[row_of[request.caption]] for request in requests], settings.batch_size):
        batch = [requests[number] for number in numbers]
        # The last batch is filled up: kernels differ with the batch's size in the last bit, and so would images.
        filled = [*batch, *[batch[0]] * (settings.batch_size - len(batch))]
        rows = torch.tensor([row_of[request.caption] for request in filled])
        text = texts[rows]
        latents = sample_latents(backbone, filled, text, texts[-1:], settings, adapter)
        if not latents.isfinite().all():
            wrong = next(request for request, x in zip(filled, latents, strict=True) if not x.isfinite().all())
            raise InputError(
                f"the image of caption {wrong.caption!r}, seed {wrong.seed} is no number after {settings.steps} steps",
                fix="The images before it are kept. Lower user_guidance, or sample in precision: fp32",
            )
        randoms = [generator("decode", request.caption, request.seed) for request in filled]
        pixels = (backbone.decode_latents(latents, text, randoms) * 255).round().to(torch.uint8)
        images |= dict(zip(numbers, pixels.permute(0, 2, 3, 1).cpu().numpy(), strict=False))
        while next_number in images:
            yield images.pop(next_number)
            next_number += 1


def _batches(lengths: list[int], size: int) -> list[list[int]]:
    """Numbers of requests, each batch of captions of one length (`Backbone.text_lengths`), by their first number."""
    batches = []
    for length in set(lengths):
        numbers = [number for number, its_length in enumerate(lengths) if its_length == length]
        batches += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return sorted(batches)


@torch.no_grad()
def sample_latents(
    backbone: Backbone,
    requests: Sequence[Request],
    text: Text,
    empty: Text,
    settings: SamplingSettings,
    adapter: UserAttention | None,
) -> Tensor:
    """Latents [B, C, h, w] of one batch. text: the B captions; empty: the empty caption, one row."""
    shape = (backbone.latent_channels, *settings.latent_size)
    randoms = [generator("sample", request.caption, request.seed) for request in requests]
    x = _randn(randoms, shape, backbone.device)
    base = Guidance(backbone, text, empty, None, settings, None)
    guided = Guidance(backbone, text, empty, _users_of(requests, adapter, backbone.device), settings, adapter)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return (guided if user_acts(t, settings) else base).predict(x, t.expand(len(x)))

    def fresh() -> Tensor:
        return _randn(randoms, shape, backbone.device)

    return backbone.process.denoise(predict, x, settings.steps, settings.sampler, fresh)


def n_forwards(process: Process, settings: SamplingSettings, *, for_user: bool) -> int:
    """Forwards of the network that an image costs, a branch of the guidance counted as one."""
    counted = 0

    def predict(x: Tensor, t: Tensor) -> Tensor:
        nonlocal counted
        s_u = settings.user_guidance if for_user and user_acts(t, settings) else 0.0
        counted += sum(coefficient != 0 for coefficient in _coefficients(settings.text_guidance, s_u))
        return x

    nothing = torch.zeros(settings.latent_size)[None, None]  # a flow's noise levels depend on the size
    process.denoise(predict, nothing, settings.steps, settings.sampler, lambda: nothing)
    return counted


def _coefficients(s_c: float, s_u: float) -> tuple[float, float, float]:
    """Of ε(c, u), ε(c, ∅) and ε(∅, ∅) in the guided noise: they add up to 1."""
    return s_u, s_c - s_u, 1 - s_c


def user_acts(t: Tensor, settings: SamplingSettings) -> bool:
    """Whether the user acts at the noise level t (a scalar), or the base draws alone."""
    low, high = settings.user_interval
    return bool(low < t <= high)


class Guidance:
    """Predicts with guidance for one batch of requests, one forward of the network a call."""

    def __init__(
        self,
        backbone: Backbone,
        text: Text,
        empty: Text,
        users: Tensor | None,
        settings: SamplingSettings,
        adapter: UserAttention | None,
    ) -> None:
        self.backbone, self.adapter = backbone, adapter
        s_c, s_u = settings.text_guidance, settings.user_guidance if users is not None else 0.0
        no_text = empty[torch.zeros(len(text), dtype=torch.int64)]
        # (coefficient, caption, for the user?).
        of = _coefficients(s_c, s_u)
        branches = [(of[0], text, True), (of[1], text, False), (of[2], no_text, False)]
        branches = [branch for branch in branches if branch[0] != 0]
        self.coefficients = [coefficient for coefficient, _, _ in branches]
        self.text = Text.cat([caption for _, caption, _ in branches])
        self.users = None
        if users is not None:
            self.users = torch.cat([users * for_user for _, _, for_user in branches])

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, C, h, w], t [B] -> the network's guided output [B, C, h, w]."""
        n = len(self.coefficients)
        with nullcontext() if self.adapter is None else self.adapter.users(self.users):
            parts = self._forward(x, t, n)
        if n == 1:
            return parts[0]
        if n == 2:
            return self.backbone.guide(parts[0], parts[1], self.coefficients[0])
        return torch.stack([c * part for c, part in zip(self.coefficients, parts, strict=True)]).sum(dim=0)

    def _forward(self, x: Tensor, t: Tensor, n: int) -> tuple[Tensor, ...]:
        return self.backbone.predict(x.repeat(n, 1, 1, 1), t.repeat(n), self.text).chunk(n)


def _users_of(requests: Sequence[Request], adapter: UserAttention | None, device: torch.device) -> Tensor | None:
    """The embeddings [B, rows, dim] of a batch, zeros for nobody; None without an adapter."""
    users = [request.user for request in requests]
    if adapter is None:
        if any(user is not None for user in users):
            raise InputError("a request has a user, but there is no adapter to draw for one", fix="Pass the adapter")
        return None
    nobody = torch.zeros(adapter.embedding_shape)
    stacked = torch.stack([nobody if user is None else user.cpu() for user in users])
    return stacked.to(device)


def _randn(randoms: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal noise [B, *shape], each row from a generator of its own."""
    return torch.stack([torch.randn(shape, generator=random) for random in randoms]).to(device)
