"""What the experiments vary and how much each may cost: what `experiments/params.yaml` holds."""

from typing import Any

from pydantic import Field, model_validator

from ppd.settings import Component, Settings


class Varied(Component):
    """One way to differ from the pipeline's settings."""

    varies: str
    """What is varied; what has one name stands in one table."""
    value: str
    """What it is set to, as the table says it."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of params.yaml, nested as they are there."""


class Variant(Varied):
    """What an ablation varies, in a trial: a short training, drawn for few people."""

    whitened: bool = True
    """False: the hidden states as they are, only scaled to a mean square of 1."""
    n_users: int | None = Field(None, ge=1)
    """Train on so many users, in the order of a hash; null: on all."""
    pairs_share: float = Field(1.0, gt=0, le=1)
    """Train on this share of every user's training pairs."""
    whole_network: bool = False
    """Train the base's own weights beside the adapter."""


class Arm(Varied):
    """What is trained and sampled as the pipeline does, and drawn for many people; without changes, by its adapters."""

    strengths: tuple[float, ...] = Field(min_length=1)
    """The user guidance, of one row of the table each."""
    n_seeds: int | None = Field(None, ge=1)
    """Train with the first so many seeds; null: with all."""


class TrialSettings(Component):
    """How an ablation's run is trained, sampled and judged: small, the same for every variant."""

    finetune: dict[str, Any] = Field(default_factory=dict)
    """Replaces settings of `finetune` in params.yaml, before a variant's own changes."""
    sampling_steps: int = Field(10, ge=1)
    captions_per_user: int = Field(4, ge=1)
    confirmed: tuple[str, ...] = ()
    """Variants that are also sampled for test users, on whom nothing is chosen."""


class RewardExperimentSettings(Component):
    """Several rewards in one model (`ppd.experiments.rewards`)."""

    scorers: tuple[str, ...] = ("clip", "colourfulness", "lightness")
    """Names of scorers (`ppd.experiments.scorers`)."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """Replaces settings of `finetune` in params.yaml, for each of the models."""
    n_seeds: int = Field(16, ge=2)
    """Images of each evaluation caption."""
    shares: tuple[float, ...] = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    """Points on the line from one reward to the next, as the share of the second."""
    seeds_per_interpolation: int = Field(4, ge=1)


class SamplingGridSettings(Component):
    """How to sample for a user, chosen on validation users and captions (`ppd.experiments.sampling`)."""

    grid: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.6, 1.0), (0.6, 1.5), (0.7, 2.0), (0.8, 3.0))
    """(low, strength): the low end of the interval of noise levels at which the user acts, and the guidance in it."""
    max_precision_loss: float = Field(0.08, ge=0)
    """What is chosen gains most among those that lose at most so much precision to the base …"""
    min_concept_accuracy: float = Field(0.99, ge=0, le=1)
    """… and show what the caption names at least so often."""


class BestOfNSettings(Component):
    """Several images of the base and a pick among them, as a competitor (`ppd.experiments.best_of_n`)."""

    n: tuple[int, ...] = (4, 16, 64)
    """Images of the base to pick from: powers of two, for the judge's tournaments."""
    n_ours: tuple[int, ...] = (4, 16)
    """The same of ours."""
    pool: int = Field(128, ge=8)
    """Images of the base that all users' candidates are of, for each caption."""
    captions_per_user: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _tournaments(self) -> "BestOfNSettings":
        if wrong := [n for n in (*self.n, *self.n_ours) if n < 2 or n & (n - 1)]:
            raise ValueError(f"n and n_ours must be powers of two from 2, not {wrong[0]}")
        if self.pool < max(self.n) + 4:
            raise ValueError(f"pool ({self.pool}) must leave four images beside the {max(self.n)} to pick from")
        return self


class DecompositionSettings(Component):
    """The same training with other embeddings (`ppd.experiments.decomposition`)."""

    seeds: tuple[int, ...] = (0,)
    """Training seeds of each embedding, among those of `seeds`."""


class FreshPeopleSettings(Component):
    """Settings told apart on many simulated people who are in no log (`ppd.experiments.fresh_people`)."""

    log_seed: int = 777
    """Of the log that they leave; `log.seed` of params.yaml is another."""
    n_users: int = Field(500, ge=2)
    captions_per_user: int = Field(1, ge=1)
    arms: dict[str, Arm] = Field(default_factory=dict)
    """By name. The first, at its first strength, is what all others are compared with, so it has all seeds."""

    @model_validator(mode="after")
    def _first_has_every_seed(self) -> "FreshPeopleSettings":
        if self.arms and next(iter(self.arms.values())).n_seeds is not None:
            raise ValueError(f"arms: {next(iter(self.arms))}, the first, must be trained with every seed")
        return self


class InterpolationSettings(Component):
    """Images between two users and beyond them (`ppd.experiments.interpolation`)."""

    n_interpolations: int = Field(16, ge=1)
    captions_per_interpolation: int = Field(2, ge=1)
    shares: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class FlowSettings(Component):
    """The job again on a base that learned by flow matching (`ppd.experiments.flow`)."""

    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of params.yaml: the base, and what it needs others for."""
    stability: dict[str, Any] = Field(default_factory=dict)
    """Replaces settings of `finetune` in the short trainings that only show what β and anchor do."""
    betas: tuple[float, ...] = (5.0, 15.0, 50.0)
    winner_anchors: tuple[float, ...] = (0.0, 1.0)
    """Each β is trained with each of these."""


class ExperimentSettings(Component):
    """Everything that can be set of the experiments, beside the pipeline's own settings."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2)
    n_workers: int = Field(3, ge=1)
    """Processes that train or sample side by side, each with one thread; what they compute does not depend on it."""
    trial: TrialSettings = TrialSettings()
    variants: dict[str, Variant] = Field(default_factory=dict)
    sampling: SamplingGridSettings = SamplingGridSettings()
    best_of_n: BestOfNSettings = BestOfNSettings()
    decomposition: DecompositionSettings = DecompositionSettings()
    rewards: RewardExperimentSettings = RewardExperimentSettings()
    fresh_people: FreshPeopleSettings = FreshPeopleSettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    flow: FlowSettings = FlowSettings()

    @model_validator(mode="after")
    def _confirmed_exist(self) -> "ExperimentSettings":
        if unknown := sorted(set(self.trial.confirmed) - set(self.variants)):
            raise ValueError(f"trial.confirmed names {unknown[0]}, but there is no such variant")
        if others := sorted(set(self.decomposition.seeds) - set(self.seeds)):
            raise ValueError(f"decomposition.seeds names {others[0]}, which is not among the seeds")
        return self


def changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    """`settings` with some values replaced and everything validated again; `changes` is nested like the settings."""
    return Settings.model_validate(_merged(settings.model_dump(), changes))


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        key: _merged(values[key], change) if isinstance(change, dict) and isinstance(values.get(key), dict) else change
        for key, change in changes.items()
    }
