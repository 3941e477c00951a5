"""Drawing images for people: a pure function of (caption, person, seed), whatever shares the batch.

Guidance with text strength s_c and user strength s_u, where ∅ is the empty caption or nobody:

    f = f(∅,∅) + s_c·(f(c,∅) − f(∅,∅)) + s_u·(f(c,u) − f(c,∅))

f is what the base's network predicts, ε, v or a velocity: at one x_t they are linear in each other, so it is one rule.

s_u = 0 is the base model, 1 is as trained, beyond 1 extrapolates. Each acts in an interval of noise levels alone
(arXiv 2404.07724). Outside `user_interval` s_u is 0: an adapter that was trained at high noise has nothing to say at
low noise, where the base draws the details. Outside `text_interval` s_c is 1: at the highest noise text guidance
decides the layout too, and in favour of large subjects. Only the branches whose coefficient is not zero are computed,
all in one forward.
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
    guidance = Guidance(backbone, text, empty, _users_of(requests, adapter, backbone.device), settings, adapter)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return guidance.predict(x, t.expand(len(x)))

    def fresh() -> Tensor:
        return _randn(randoms, shape, backbone.device)

    return backbone.process.denoise(predict, x, settings, fresh)


def n_forwards(process: Process, settings: SamplingSettings, *, for_user: bool) -> int:
    """Forwards of the network that an image costs, a branch of the guidance counted as one."""
    counted = 0

    def predict(x: Tensor, t: Tensor) -> Tensor:
        nonlocal counted
        counted += sum(coefficient != 0 for coefficient in _coefficients(*strengths(t, settings, for_user=for_user)))
        return x

    nothing = torch.zeros(settings.latent_size)[None, None]  # a flow's noise levels depend on the size
    process.denoise(predict, nothing, settings, lambda: nothing)
    return counted


def strengths(t: Tensor, settings: SamplingSettings, *, for_user: bool) -> tuple[float, float]:
    """s_c and s_u at the noise level t (a scalar)."""
    s_c = settings.text_guidance if _inside(t, settings.text_interval) else 1.0
    s_u = settings.user_guidance if for_user and _inside(t, settings.user_interval) else 0.0
    return s_c, s_u


def _inside(t: Tensor, interval: tuple[float, float]) -> bool:
    low, high = interval
    return bool(low < t <= high)


def _coefficients(s_c: float, s_u: float) -> tuple[float, float, float]:
    """Of ε(c, u), ε(c, ∅) and ε(∅, ∅) in the guided noise: they add up to 1."""
    return s_u, s_c - s_u, 1 - s_c


@dataclass(frozen=True)
class _Branches:
    """What one forward computes, n branches in one batch, and their coefficients in its output."""

    coefficients: list[float]
    text: Text
    users: Tensor | None
    """Zeros for the branches of nobody; None where every branch is."""


class Guidance:
    """Predicts with guidance for one batch of requests, one forward of the network a call.

    users: their embeddings [B, rows, dim], or None to draw for nobody.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: Text,
        empty: Text,
        users: Tensor | None,
        settings: SamplingSettings,
        adapter: UserAttention | None,
    ) -> None:
        self.backbone, self.adapter, self.settings = backbone, adapter, settings
        self.text, self.users = text, users
        self.no_text = empty[torch.zeros(len(text), dtype=torch.int64)]
        self._branches: dict[tuple[float, float], _Branches] = {}  # the same at most steps

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, C, h, w], noise levels t [B] of one strength -> the network's guided output [B, C, h, w]."""
        strength = strengths(t[0], self.settings, for_user=self.users is not None)
        if strength not in self._branches:
            self._branches[strength] = self._branches_of(*strength)
        branches = self._branches[strength]
        n = len(branches.coefficients)
        with nullcontext() if branches.users is None or self.adapter is None else self.adapter.users(branches.users):
            parts = self.backbone.predict(x.repeat(n, 1, 1, 1), t.repeat(n), branches.text).chunk(n)
        if n == 1:
            return parts[0]
        if n == 2:
            return self.backbone.guide(parts[0], parts[1], branches.coefficients[0])
        return torch.stack([c * part for c, part in zip(branches.coefficients, parts, strict=True)]).sum(dim=0)

    def _branches_of(self, s_c: float, s_u: float) -> _Branches:
        captions = (self.text, self.text, self.no_text)
        of = [(c, *branch) for c, *branch in zip(_coefficients(s_c, s_u), captions, (1, 0, 0), strict=True) if c != 0]
        coefficients, text, for_user = zip(*of, strict=True)
        users = None
        if self.users is not None and any(for_user):
            users = torch.cat([self.users * whether for whether in for_user])
        return _Branches(list(coefficients), Text.cat(list(text)), users)


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
