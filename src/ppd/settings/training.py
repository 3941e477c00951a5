"""Fine-tuning the adapter (`ppd.diffusion.training`)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ppd.settings.base import Component, Share

Precision = Literal["fp32", "bf16", "fp16"]
"""fp16 can be written but is refused where a backbone is built: Stable Cascade overflows in it."""


Method = Literal["ppd", "dpo", "sft"]
"""ppd: preferences given the person; dpo: the same pairs, everybody as one person; sft: as dpo, chosen images only."""


class UserAttentionSettings(Component):
    """Shape of the adapter (`ppd.diffusion.adapter.user_attention`)."""

    tokens_per_row: int = Field(4, ge=1)
    """User tokens made of each row (VLM layer) of an embedding."""
    token_dim: int = Field(64, ge=1)
    blocks: str = ".*"
    """Regular expression over the names of the backbone's attention blocks: which ones see the user."""


class LoraSettings(Component):
    """Low-rank weights of the base itself, trained beside the attention to the user (`ppd.diffusion.adapter.lora`)."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(16, ge=1)
    """The update of a layer is (alpha / rank)·B·A."""
    targets: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Ends of the names of the linear layers that take an update, as peft's `target_modules`."""
    alone: bool = False
    """The pooled methods (dpo, sft) train these weights and no attention beside them. ppd always keeps its attention:
    without it nothing would know the user."""


class TimestepSettings(Component):
    """How the noise level t of training is distributed (`ppd.diffusion.training.timesteps`); for a flow t is σ."""

    distribution: Literal["power", "logit-normal"] = "power"
    """power: high − (high − low)·r^power with r uniform, so 1 is uniform and above 1 dwells at high noise.
    logit-normal: the sigmoid of a standard normal, between low and high (Esser et al., arXiv 2403.03206)."""
    low: float = Field(0.75, gt=0, lt=1)
    high: float = Field(0.998, gt=0, le=1)
    power: float = Field(1.7, gt=0)
    importance_weighted: bool = False
    """Weigh each pair by uniform density / density of this distribution: the objective of uniform t at its variance."""
    shift: float = Field(1.0, gt=0)
    """t becomes shift·t / (1 + (shift − 1)·t) afterwards: above 1 towards more noise, as flows at high resolution are
    trained."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.distribution == "logit-normal" and self.power != 1:
            raise ValueError(f"power ({self.power}) says nothing of a logit-normal distribution: write power: 1")
        if self.importance_weighted and (self.distribution == "logit-normal" or self.shift != 1):
            raise ValueError("importance_weighted is known for distribution: power with shift: 1 alone")
        return self


class LossSettings(Component):
    """What a step minimises (`ppd.diffusion.training.loss`)."""

    beta: float = Field(15.0, gt=0)
    """Multiplies half the margin of *mean* squared errors of what the base's network predicts (ε, v or a velocity). It
    carries over neither between those nor to a sum of squares, where it would be beta / (C·H·W)."""
    winner_anchor: float = Field(4.0, ge=0)
    """Weight of the winner's own denoising error, which keeps it from rising while the margin grows."""
    safeguard: float | None = Field(None, ge=0, lt=1)
    """Slack μ of Diffusion-SDPO's rule on the loser's gradient; null leaves the gradient as it is."""
    dispersion: float = Field(0.0, ge=0)
    """Weight of the InfoNCE term that keeps people apart."""
    dispersion_temperature: float = Field(0.2, gt=0)


class FinetuneSettings(Component):
    """One training run (`ppd.diffusion.training.trainer`), the same for every method so that budgets are equal."""

    steps: int = Field(500, ge=1)
    pairs_per_step: int = Field(32, ge=1)
    micro_batch_pairs: Annotated[int, Field(ge=1)] | Literal["auto"] = 32
    """Pairs in one forward on one process, or its share of a step if that is less; the rest of a step is accumulated.
    auto: as many as fit, found by trying."""
    fresh_epochs: int | None = Field(None, ge=1)
    """After so many epochs batches, t and noise repeat, so reference errors come from the cache; null: never repeat."""
    learning_rate: float = Field(4e-3, gt=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_steps: int = Field(50, ge=0)
    decay: Literal["constant", "cosine"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Average the adapter's weights over the last ~1 / (1 − ema_decay) steps; 0 keeps the last weights."""
    user_dropout: Share = 0.0
    """Share of pairs with u = 0. The adapter is an exact no-op there, so these pairs teach it nothing: 0 by default."""
    seed: int = 0
    precision: Precision = "bf16"
    gradient_checkpointing: bool | Annotated[float, Field(gt=0, le=1)] = False
    """Compute the base's blocks again in the backward pass instead of keeping what they computed: all of them (true),
    none (false), or a share of them, evenly spread. Less memory for more time."""
    compile: bool = False
    """torch.compile the base's blocks one by one: needs a C++ compiler, and some seconds for each shape. Where that
    fails, training says so and goes on without."""
    evaluate_every_steps: int = Field(250, ge=1)
    evaluation_pairs: int = Field(256, ge=1)
    """At most so many pairs of seen people, and of held-out ones, with noise of their own that never changes."""
    checkpoint_every_steps: int = Field(150, ge=1)
    attention: UserAttentionSettings = UserAttentionSettings()
    lora: LoraSettings | None = None
    """Null: of the base nothing is trained."""
    timesteps: TimestepSettings = TimestepSettings()
    loss: LossSettings = LossSettings()

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.micro_batch_pairs != "auto" and self.pairs_per_step % self.micro_batch_pairs:
            raise ValueError(
                f"pairs_per_step ({self.pairs_per_step}) must be a multiple of micro_batch_pairs "
                f"({self.micro_batch_pairs}): a step is cut in equal micro-batches"
            )
        return self
