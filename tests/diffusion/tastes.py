"""A training of six steps on six people of two tastes (the fixture `data`), for a tiny Stable Cascade."""

from pathlib import Path

from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.settings import FinetuneSettings, LoraSettings, LossSettings, Method, UserAttentionSettings

SETTINGS = FinetuneSettings(
    precision="fp32",
    steps=6,
    pairs_per_step=8,
    micro_batch_pairs=8,
    learning_rate=3e-3,
    warmup_steps=2,
    evaluate_every_steps=3,
    checkpoint_every_steps=2,
    evaluation_pairs=8,
    attention=UserAttentionSettings(tokens_per_row=2, token_dim=8),
    loss=LossSettings(winner_anchor=0),
)
BESIDE, ALONE = LoraSettings(rank=2, alpha=4), LoraSettings(rank=2, alpha=4, alone=True)


def changed(**changes: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(SETTINGS.model_dump() | changes)


def run(backbone: StableCascadeBackbone, data: TrainingData, work: Path, method: Method = "ppd", **changes: object):
    """Train on `backbone` and give it back bare."""
    trainer = Trainer(backbone, data, changed(**changes), method)
    rows = list(trainer.train(work))
    trainer.adapter.detach()
    return trainer, rows
