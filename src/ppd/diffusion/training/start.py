"""Where a run starts from, and how fast it moves: functions of the settings alone."""

import math

import torch

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.seeding import generator
from ppd.settings import FinetuneSettings, Method


def learning_rate(step: int, settings: FinetuneSettings) -> float:
    """Linear warm-up over `warmup_steps`, then constant or half a cosine down to 0 at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def fresh_adapter(backbone: Backbone, data: TrainingData, settings: FinetuneSettings, method: Method) -> UserAttention:
    """The adapter before training: a function of the seed.

    For the pooled methods (dpo, sft) one random embedding stands for everybody. That constant is as long as people's
    embeddings are on average, so all methods train one adapter at one scale.
    """
    rows, dim = data.embeddings.shape[1:]
    alone = settings.lora is not None and settings.lora.alone and method != "ppd"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if alone:
            adapter = UserAttention((rows, dim), {}, settings.attention)
        else:
            adapter = UserAttention.beside(backbone, (rows, dim), settings.attention)
        if settings.lora is not None:
            adapter.lora = LowRank(backbone.network, settings.lora).to(backbone.device)
    if method != "ppd" and not alone:
        direction = torch.randn(rows, dim, generator=generator("everybody", settings.seed))  # the key decides the draw
        adapter.pooled_embedding = (direction * data.embeddings.square().mean().sqrt()).to(backbone.device)
    return adapter
