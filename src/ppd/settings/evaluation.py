"""Sampling images, comparing them, and who judges."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ppd.settings.base import Component, Share
from ppd.settings.embedding import PromptVersion, VlmPrecision
from ppd.settings.server import ServerSettings
from ppd.settings.training import Precision


class SamplingSettings(Component):
    """How images are drawn (`ppd.diffusion.sampling.sampler`)."""

    latent_size: tuple[int, int] = (16, 16)
    """Height and width of the latents: 16x16 at the sticker scale, 24x24 for Stable Cascade at 1024 px."""

    steps: int = Field(14, ge=1)
    sampler: Literal["ddim", "ddpm", "stochastic", "euler"] = "stochastic"
    """ddim: deterministic steps, for bases that predict ε or v; ddpm: Stable Cascade's own ancestral steps;
    stochastic: these, of second order at high noise, and all noise anew at low noise, which keeps colours and details
    in few steps; euler: a flow's (Z-Image)."""
    spacing: float = Field(3.5, gt=0)
    """Steps at t = 1 − r^spacing for even r: 1 is even, as Stable Cascade has them; above 1 more of them are at high
    noise, where colour and layout are decided. For the cosine schedule alone: other schedulers have a spacing."""
    text_guidance: float = Field(2.0, ge=0)
    text_interval: tuple[Share, Share] = (0.0, 0.9)
    """Noise levels low < t <= high at which text guidance acts; at the others the caption is followed as it is (1)."""
    user_guidance: float = Field(4.0, ge=0)
    """Strength of the user: 0 is the base model, 1 as trained, beyond 1 extrapolates."""
    user_interval: tuple[Share, Share] = (0.65, 1.0)
    """Noise levels low < t <= high at which the user acts; at the others the base draws, in two forwards for three."""
    precision: Precision = "bf16"
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("text_interval", "user_interval"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: its low end ({low}) must not be above its high end ({high})")
        return self


class EvaluationSettings(Component):
    """Who is drawn for, what, and which images meet (`ppd.evaluation.plan`)."""

    unseen_split: Literal["validation", "test"] = "test"
    """Whose unseen users and captions: settings are chosen on validation, results are reported on test."""
    n_unseen_users: int = Field(96, ge=2)
    n_seen_users: int = Field(48, ge=2)
    captions_per_user: int = Field(5, ge=1)
    n_validation_captions: int = Field(3, ge=1)
    """So many of the held-out captions (at most half) are those of `validation`, and no result is on them."""
    n_seeds: int = Field(16, ge=2)
    """Noises that images start from; people are spread over them."""
    first_seed: int = Field(0, ge=0)
    """A re-evaluation moves on to fresh noises with this."""
    resample_key: str = ""
    """Empty: everybody gets the same captions. A name, such as a date, draws people and each person's captions anew."""
    opponents_per_image: int = Field(4, ge=1)
    """Other-seed opponents that each image meets under the true taste; the first of them also before the VLM judge."""
    n_interpolations: int = Field(12, ge=0)
    """Pairs of unseen people between whom is interpolated."""
    captions_per_interpolation: int = Field(4, ge=1)
    points_per_interpolation: int = Field(7, ge=2)
    """Points on the way from one person to the other, both ends included."""


class JudgeSettings(Component):
    """Who judges for a person, and how (`ppd.vlm.judging`): the vision-language model, or a server."""

    prompt: PromptVersion = "short-1"
    precision: VlmPrecision = "fp32"
    batch_size: int = Field(32, ge=1)
    """Conversations in one forward."""
    server: ServerSettings | None = None
    """Asks this server in place of the local model."""

    @model_validator(mode="after")
    def _words_that_a_server_understands(self) -> Self:
        if self.server is not None and self.prompt == "short-1":
            raise ValueError("prompt: short-1 is what the nano model knows; a server needs prompt: full-1")
        return self


class RewardSettings(Component):
    """A published scorer of images (`ppd.rewards.scorers`), reported beside the win rates."""

    kind: Literal["clip", "aesthetic", "pick-score", "hps"]
    checkpoint: str
    """A CLIP in the hub's layout; of hps, what `ppd convert open-clip` wrote."""
    head: str | None = None
    """Of aesthetic, and of no other: what `ppd convert aesthetic` wrote."""

    @model_validator(mode="after")
    def _a_head_for_aesthetic_alone(self) -> Self:
        if (self.head is not None) != (self.kind == "aesthetic"):
            raise ValueError(f"kind: {self.kind} {'takes no' if self.head else 'needs a'} head")
        return self
