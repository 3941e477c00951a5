"""Settings of every component, one frozen model each, and their composition: what `params.yaml` holds.

The defaults are what `params.yaml` holds (there is a test): library and pipeline do the same. No torch here.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from ppd.cron import check_cron
from ppd.errors import InputError
from ppd.params import load_model
from ppd.settings.base import Component, Share
from ppd.settings.embedding import EmbeddingSettings, PromptVersion, VlmPrecision
from ppd.settings.evaluation import EvaluationSettings, JudgeSettings, RewardSettings, SamplingSettings
from ppd.settings.preferences import ChoiceWords, ColumnSettings, PreferenceSettings, Word, word_of
from ppd.settings.server import ServerSettings
from ppd.settings.simulation import LogSettings, PeopleSettings
from ppd.settings.training import (
    FinetuneSettings,
    LoraSettings,
    LossSettings,
    Method,
    Precision,
    TimestepSettings,
    UserAttentionSettings,
)

__all__ = [
    "RENAMED",
    "ChoiceWords",
    "ColumnSettings",
    "Component",
    "EmbeddingSettings",
    "EvaluationSettings",
    "FinetuneSettings",
    "JudgeSettings",
    "LaunchSettings",
    "LogSettings",
    "LoraSettings",
    "LossSettings",
    "Method",
    "ModelSettings",
    "PeopleSettings",
    "Precision",
    "PreferenceSettings",
    "PromptVersion",
    "ReevaluationSettings",
    "RewardSettings",
    "SamplingSettings",
    "ServerSettings",
    "Settings",
    "Share",
    "TimestepSettings",
    "UserAttentionSettings",
    "VlmPrecision",
    "Word",
    "load_settings",
    "word_of",
]


class ModelSettings(Component):
    """Which checkpoints are used: folders in the hub's layout. The two scales differ here and in sizes."""

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
    """Where a stage's work is done (`ppd.launch`): no stage depends on it, and changing it runs nothing again."""

    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Processes that share encode, embed, sample, judge and the rewards, with the same bytes whatever their number;
    auto: one a GPU, or one a core of a CPU with one thread each."""
    training: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """The same of training, whose last digits depend on the number; auto: one a GPU, or two on any CPU."""
    command: str | None = None
    """What starts them in place of this: `ppd stage …` is put after it, and it sets RANK and WORLD_SIZE; one for
    Slurm and one for Kubernetes are in docs/cluster.md."""

    @field_validator("command")
    @classmethod
    def _without_ppd(cls, command: str | None) -> str | None:
        if command is not None and command.split()[-1:] in ([], ["ppd"]):
            raise ValueError(
                "leave out the `ppd` at its end, which is put there; null starts processes of this machine"
            )
        return command


class ReevaluationSettings(Component):
    """The clock: when the current models are evaluated again (`ppd.reevaluation`)."""

    cron: Annotated[str, AfterValidator(check_cron)] = "0 6 * * 1"
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
    def _somebody_to_evaluate_with(self) -> Self:
        split = self.evaluation.unseen_split
        if getattr(self.preferences, f"{split}_user_share") == 0:
            raise ValueError(f"evaluation.unseen_split is {split}, but preferences.{split}_user_share is 0")
        return self

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
    "launch.finetune": "launch.command",
}
"""Keys of earlier settings files and what to write instead."""
_ADVICE = {old: f"is called {new} now. Write that instead." for old, new in RENAMED.items()} | {
    "finetune.loss.error": "is gone: errors are those of what the base's network predicts. Remove it; where it was "
    "noise and the base predicts v, beta is that of v now."
}


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """The settings in the file at `path`. Raises InputError that lists each wrong key, why, and what to do."""
    settings = load_model(path, Settings, _ADVICE)
    for name in ("prior", "vlm", "attribute_classifier", "clip"):
        checkpoint = Path(getattr(settings.models, name))
        if len(checkpoint.parts) == 2 and not checkpoint.exists() and not checkpoint.parent.is_dir():
            raise InputError(
                f"models.{name}: there is no folder {checkpoint}. If it is the id of a model on a hub: a stage of DVC "
                "depends on files",
                file=path,
                fix=f"Name the folder that `hf download {checkpoint} --local-dir data/models/{checkpoint.name}` makes",
            )
    return settings
