"""Settings of every component, one frozen model each, and their composition: what `params.yaml` holds.

The defaults are what `params.yaml` holds (there is a test): library and pipeline do the same. No torch here.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from ppd.params import load_model

Share = Annotated[float, Field(ge=0, le=1)]


class Component(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PeopleSettings(Component):
    """The prior over simulated people and how they choose (`ppd.simulation.users`). Chosen by the ceiling alone."""

    two_trait_share: Share = 0.5
    strong: tuple[float, ...] = (2.0, 3.0)
    second: tuple[float, ...] = (1.0, 2.0)
    temperature: float = Field(1.0, gt=0)
    unreliable_share: Share = 0.05
    unreliable_temperature: float = Field(4.0, gt=0)
    indifference: float = Field(3.0, gt=0)


class LogSettings(Component):
    """The simulated log of choices (`ppd.simulation.log`)."""

    seed: int = 0
    n_users: int = Field(420, ge=1)
    rows_per_user: tuple[int, int] = (44, 60)
    kept_winner_share: Share = 0.15
    """Share of choices after which the winner stays for the next round."""
    tie_rate: Share = 0.135
    """How often a person without an opinion calls a tie; else they move on and leave no row."""
    unlabelled_share: Share = 0.01
    duplicate_share: Share = 0.005
    broken_image_share: Share = 0.002
    given_up_share: Share = 0.02
    """People who left fewer than four rows, beside the others."""
    image_quality: int = Field(80, ge=1, le=100)


class PreferenceSettings(Component):
    """Reading, cleaning and splitting the log of choices (`ppd.preferences`)."""

    source_format: Literal["pick-a-pic", "folder", "studio"] = "pick-a-pic"
    """pick-a-pic: parquet shards in the schema of Pick-a-Pic v2; folder: a table `choices.*` beside image files;
    studio: what visitors of `ppd studio` chose, after the shards of Pick-a-Pic beside it, if there are any."""
    seed: int = 0
    max_image_pixels: int = Field(50_000_000, ge=1)
    max_refused_share: Share = 0.05
    """Ingestion stops when more than this share of all rows is refused: then something is wrong with the log itself."""
    pairs_per_group: int = Field(4, ge=1)
    max_groups: int = Field(20, ge=1)
    """Support groups of a user at most."""
    support_share: Share = 0.5
    """Share of a seen user's training material that describes the user; the rest is trained on."""
    validation_user_share: Share = 0.1
    test_user_share: Share = 0.2
    eval_caption_share: Share = 0.25
    n_shards: int = Field(4, ge=1, le=64)
    """Users are embedded in this many shards by hash. Above 99 Dagster stops comparing versions of single shards."""

    @model_validator(mode="after")
    def _somebody_is_seen(self) -> Self:
        held_out = self.validation_user_share + self.test_user_share
        if held_out >= 1:
            raise ValueError(f"validation and test hold out {held_out:g} of all users; leave some to train on")
        return self


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


class TimestepSettings(Component):
    """t = high − (high − low)·r^power with r uniform: power 1 is uniform, above 1 dwells at high noise."""

    low: float = Field(0.6, gt=0, lt=1)
    high: float = Field(0.998, gt=0, le=1)
    power: float = Field(1.7, gt=0)
    importance_weighted: bool = False
    """Weigh each pair by uniform density / density of this law: the objective of uniform t at this law's variance."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class LossSettings(Component):
    """What a step minimises (`ppd.diffusion.training.loss`)."""

    beta: float = Field(15.0, gt=0)
    """Multiplies half the margin of *mean* squared errors; β for a sum of squares would be beta / (C·H·W)."""
    error: Literal["noise", "velocity"] = "velocity"
    """noise: |ε̂ − ε|² (the papers); velocity: the same over ᾱ(t), which weighs high noise up."""
    winner_anchor: float = Field(0.0, ge=0)
    """Weight of the winner's own denoising error, which keeps it from rising while the margin grows."""
    safeguard: float | None = Field(None, ge=0, lt=1)
    """Slack μ of Diffusion-SDPO's rule on the loser's gradient; null leaves the gradient as it is."""
    dispersion: float = Field(0.0, ge=0)
    """Weight of the InfoNCE term that keeps people apart."""
    dispersion_temperature: float = Field(0.2, gt=0)


class FinetuneSettings(Component):
    """One training run (`ppd.diffusion.training.trainer`), the same for every method so that budgets are equal."""

    steps: int = Field(750, ge=1)
    pairs_per_step: int = Field(32, ge=1)
    micro_batch_pairs: int = Field(32, ge=1)
    """Pairs in one forward on one process; the rest of a step is accumulated."""
    fresh_epochs: int | None = Field(None, ge=1)
    """After so many epochs batches, t and noise repeat, so reference errors come from the cache; null: never repeat."""
    learning_rate: float = Field(1e-3, gt=0)
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
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile the base network: needs a C++ compiler on a CPU, and a minute at the start."""
    evaluate_every_steps: int = Field(250, ge=1)
    evaluation_pairs: int = Field(256, ge=1)
    """At most so many pairs of seen people, and of held-out ones, with noise of their own that never changes."""
    checkpoint_every_steps: int = Field(150, ge=1)
    attention: UserAttentionSettings = UserAttentionSettings()
    timesteps: TimestepSettings = TimestepSettings()
    loss: LossSettings = LossSettings()

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.pairs_per_step % self.micro_batch_pairs:
            raise ValueError(
                f"pairs_per_step ({self.pairs_per_step}) must be a multiple of micro_batch_pairs "
                f"({self.micro_batch_pairs}): a step is cut in equal micro-batches"
            )
        return self


class SamplingSettings(Component):
    """How images are drawn (`ppd.diffusion.sampling.sampler`)."""

    latent_size: tuple[int, int] = (16, 16)
    """Height and width of the latents: 16x16 at the sticker scale, 24x24 for Stable Cascade at 1024 px."""

    steps: int = Field(16, ge=1)
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """ddim: deterministic steps; ddpm: the scheduler's own ancestral steps (Stable Cascade's pipeline)."""
    text_guidance: float = Field(2.0, ge=0)
    user_guidance: float = Field(1.0, ge=0)
    """Strength of the person: 0 is the base model, 1 as trained, beyond 1 extrapolates."""
    precision: Precision = "bf16"
    batch_size: int = Field(32, ge=1)


class EvaluationSettings(Component):
    """Who is drawn for, what, and which images meet (`ppd.evaluation.plan`)."""

    unseen_split: Literal["validation", "test"] = "test"
    """Whose unseen users: settings are chosen on validation, results are reported on test."""
    n_unseen_users: int = Field(96, ge=2)
    n_seen_users: int = Field(48, ge=2)
    captions_per_user: int = Field(8, ge=1)
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


PromptVersion = Literal["short-1", "full-1"]
"""short: few words, all that a nano model's tokenizer knows; full: asks for the reasoning that the paper asks for."""

VlmPrecision = Literal["fp32", "bf16"]
"""bf16 halves a large model's memory. No fp16, in which the published 7B lies: its range is too small."""


class EmbeddingSettings(Component):
    """How a person's pairs become an embedding (`ppd.vlm.embedding`)."""

    prompt: PromptVersion = "short-1"
    read: Literal["prompt-end", "answer-end"] = "prompt-end"
    """Which hidden states: where the answer would begin, or at the last word of the written profile (the paper's)."""
    max_new_tokens: int = Field(8, ge=0)
    """Length of the written profile; 0 writes none, which needs `read: prompt-end`."""
    rows: tuple[int, ...] | None = (6,)
    """Which layers are kept: 0 is the input embedding, the last is the model's output; null keeps all."""
    components: int | None = Field(9, ge=1)
    """Whitening keeps so many principal directions of each row; null keeps all."""
    shrinkage: Share = 0.1
    """How far whitening draws the spectrum towards its mean, so that directions without signal are not blown up."""
    precision: VlmPrecision = "fp32"
    batch_size: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _something_to_read(self) -> Self:
        if self.read == "answer-end" and self.max_new_tokens == 0:
            raise ValueError("read: answer-end needs a written answer; set max_new_tokens above 0 or read: prompt-end")
        return self


class ServerSettings(Component):
    """A judge behind an OpenAI-compatible chat endpoint (`ppd.vlm.server_judge`): GPT-4o, or what vLLM serves."""

    url: str = Field(pattern=r"^https?://\S+$")
    """What comes before /chat/completions, such as http://localhost:8000/v1."""
    model: str
    key_variable: str | None
    """Environment variable that holds the API key, read when the first question is asked; null sends none."""
    price_per_million_prompt_tokens: float = Field(ge=0)
    price_per_million_answer_tokens: float = Field(ge=0)
    """Prices change, so none is assumed; 0 for a server of your own. `budget` is in the same currency."""
    budget: float = Field(ge=0)
    """What one run may spend; it stops before the question that could pass it. Answers that it has are kept."""
    tokens_per_image: int = Field(ge=1)
    """What the server counts for an image: for the estimate before the run; afterwards it says itself."""
    max_new_tokens: int = Field(16, ge=1)
    """A model that thinks before it answers needs hundreds or thousands."""
    max_tokens_field: str | None = Field("max_completion_tokens", pattern=r"^\w+$")
    """What the request calls it: older servers know `max_tokens` alone; null leaves it out."""
    temperature: float | None = Field(0.0, ge=0)
    """null leaves it out, for models that accept only their own."""
    extra_body: dict[str, JsonValue] = {}
    """More fields of the request, as they are, such as `reasoning_effort: low`."""
    concurrency: int = Field(8, ge=1)
    """Questions under way at a time."""
    timeout_s: float = Field(60.0, gt=0)
    """For the whole of a response."""
    attempts: int = Field(6, ge=1)
    first_wait_s: float = Field(1.0, ge=0)
    """Before the second attempt; it doubles each time, with jitter, and a server that says how long is believed."""

    @model_validator(mode="after")
    def _each_field_of_the_request_once(self) -> Self:
        ours = {"model", "messages", "temperature"}
        if self.max_tokens_field in ours:
            raise ValueError(f"max_tokens_field: {self.max_tokens_field} is another field of the request")
        if taken := sorted(self.extra_body.keys() & (ours | {self.max_tokens_field, "stream", "n"})):
            raise ValueError(
                f"extra_body holds {', '.join(map(str, taken))}: stream and n cannot be changed, and the others have "
                "settings of their own (model, temperature, max_tokens_field with max_new_tokens)"
            )
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"extra_body cannot be sent as JSON: {error}") from error
        return self


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


class ModelSettings(Component):
    """Which checkpoints are used: folders in the hub's layout, or hub ids. The two scales differ here and in sizes."""

    prior: str = "data/models/prior"
    vlm: str = "data/models/vlm"
    attribute_classifier: str = "data/models/attribute-classifier"
    """Evaluation only: what reads stickers: a classifier of their attributes."""
    clip: str = "data/models/clip"
    """Evaluation only: the CLIP in whose space precision is measured."""
    image_px: int = Field(64, ge=8)
    """Side of the square images that the prior's codec takes."""
    encode_batch_size: int = Field(128, ge=1)


class LaunchSettings(Component):
    """What starts a stage that can use several processes: where a result is computed, which changes nothing in it."""

    finetune: str = "ppd"
    """`ppd` is one process; `accelerate launch --no_python ppd` as many as accelerate's own configuration says."""


class ReevaluationSettings(Component):
    """The clock: when the current models are evaluated again (`ppd.reevaluation`)."""

    cron: str = Field("0 6 * * 1", pattern=r"^\S+( \S+){4}$")
    """Minute, hour, day, month, weekday; UTC."""
    captions_per_user: int = Field(4, ge=1)
    """Fewer than there are to evaluate with, so that each date is another choice of them for each person."""


class Settings(Component):
    """Everything that a run of the pipeline can be told. A stage takes its own component out of it."""

    people: PeopleSettings = PeopleSettings()
    log: LogSettings = LogSettings()
    models: ModelSettings = ModelSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    sampling: SamplingSettings = SamplingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    judge: JudgeSettings = JudgeSettings()
    rewards: tuple[RewardSettings, ...] = ()
    launch: LaunchSettings = LaunchSettings()
    reevaluation: ReevaluationSettings = ReevaluationSettings()

    @model_validator(mode="after")
    def _each_reward_once(self) -> Self:
        kinds = [reward.kind for reward in self.rewards]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"rewards names {', '.join(kinds)}: each kind once, since it names the metric")
        return self


RENAMED = {
    "log.n_people": "log.n_users",
    "log.rows_a_person": "log.rows_per_user",
    "models.reader": "models.attribute_classifier",
    "evaluation.people": "evaluation.unseen_split",
    "evaluation.n_unseen_people": "evaluation.n_unseen_users",
    "evaluation.n_seen_people": "evaluation.n_seen_users",
    "evaluation.captions_a_person": "evaluation.captions_per_user",
    "evaluation.occasion": "evaluation.resample_key",
    "evaluation.opponents_an_image": "evaluation.opponents_per_image",
    "evaluation.n_journeys": "evaluation.n_interpolations",
    "evaluation.captions_a_journey": "evaluation.captions_per_interpolation",
    "evaluation.journey_steps": "evaluation.points_per_interpolation",
    "judge.server.price_a_million_prompt_tokens": "judge.server.price_per_million_prompt_tokens",
    "judge.server.price_a_million_answer_tokens": "judge.server.price_per_million_answer_tokens",
    "judge.server.tokens_an_image": "judge.server.tokens_per_image",
    "reevaluation.captions_a_person": "reevaluation.captions_per_user",
}
"""Keys of earlier settings files and what to write instead."""


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """The settings in the file at `path`. Raises InputError that lists each wrong key, why, and what to do."""
    return load_model(path, Settings, RENAMED)
