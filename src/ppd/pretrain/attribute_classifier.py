"""The attribute classifier: what evaluation measures generated stickers with.

about 10 minutes on one core for the defaults; expect a concept accuracy of .99 on held-out renders
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ppd.diffusion.model.codec import ImageCodec
from ppd.files import atomic_path
from ppd.pretrain.degrade import degrade
from ppd.pretrain.loop import Curve, LoopSettings, autocast, fit, save_curve
from ppd.pretrain.pictures import render_tensor
from ppd.seeding import generator
from ppd.settings import Component
from ppd.simulation import seeds
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.render import Atlas
from ppd.simulation.world import sample_scenes


class AttributeClassifierSettings(Component):
    """Shape and training of the classifier."""

    width: int = 32
    n_blocks: int = 1
    factor_weight: float = 10.0
    """Of the mean squared error of the factors, beside the two cross-entropies."""
    loop: LoopSettings = LoopSettings(
        steps=2400, batch_size=64, learning_rate=2e-3, weight_decay=0.02, decay_share=0.5, ema_decay=0.995
    )


def train_attribute_classifier(
    atlas: Atlas,
    codec: ImageCodec,
    settings: AttributeClassifierSettings,
    out: Path,
    state_file: Path,
    device: torch.device,
) -> None:
    """Train on fresh renders, two thirds of them degraded; writes the classifier and its loss curve to `out`."""
    loop = settings.loop
    torch.manual_seed(loop.seed)
    classifier = AttributeClassifier(settings.width, settings.n_blocks)
    classifier.to(device=device, memory_format=torch.channels_last)
    codec = codec.to(device).eval()

    def loss_at(step: int) -> Tensor:
        scenes = sample_scenes(seeds.rng("pretrain", "reader", loop.seed, step), loop.batch_size)
        images = degrade(render_tensor(atlas, scenes).to(device), codec, generator("reader", loop.seed, step))
        with autocast(device, loop.bf16):
            concept, style, factors = classifier(images)
        truth = torch.from_numpy(scenes.factors).float().to(device)
        return (
            functional.cross_entropy(concept.float(), torch.from_numpy(scenes.concept).to(device))
            + functional.cross_entropy(style.float(), torch.from_numpy(scenes.style).to(device))
            + settings.factor_weight * functional.mse_loss(factors.float(), truth)
        )

    def publish(curve: Curve) -> None:
        with atomic_path(out) as fresh:
            classifier.save_pretrained(fresh)
            (fresh / "settings.json").write_text(settings.model_dump_json(indent=2))
            save_curve(curve, fresh, title="reader: cross-entropies + weighted MSE of the factors")

    fit(classifier, loss_at, loop, state_file, publish, title="reader")
