"""Recipe of the nano LLaVA-OneVision: `ppd pretrain vlm`.

First sight (`vlm_pictures`): vision tower and projector learn with direct heads what a picture shows, then freeze.
Then judgement (`vlm_questions`): the language model learns from simulated people to say what an exact observer would
say. Three quarters of an hour on one CPU core, seven minutes of it for sight; each part resumes after a kill.

What to expect of judgement (accuracy after four pairs, exact posterior .883): at chance for 500 steps, .82 at 700, .86
at 1,100, .874 at the end.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from ppd.files import atomic_path
from ppd.pretrain.loop import Curve, LoopSettings, averaged_weights, fit, save_curve
from ppd.pretrain.vlm_architecture import ArchitectureSettings, build_model, build_processor
from ppd.pretrain.vlm_packing import layout
from ppd.pretrain.vlm_pictures import RenderCache, Sight, see, sight_loss, sight_quality
from ppd.pretrain.vlm_questions import Reader, batch_loss, population_quality, read, sample_packing
from ppd.pretrain.vlm_users import PopulationCache, ScenePool, sample_batch
from ppd.settings import Component, PeopleSettings
from ppd.simulation import seeds
from ppd.simulation.render import Atlas
from ppd.vlm.processor import ImageTextProcessor

_saved_often = partial(LoopSettings, checkpoint_every_s=60)


class VlmSettings(Component):
    """Everything the recipe needs; written beside the weights."""

    architecture: ArchitectureSettings = ArchitectureSettings()
    people: PeopleSettings = PeopleSettings()
    render_cache_size: int = 30_000
    """Renders for each part; the second part's are other ones than the first's."""
    held_out_pictures: int = 2000
    held_out_people: int = 512
    sight: LoopSettings = _saved_often(
        steps=2000, batch_size=128, learning_rate=1.5e-3, warmup_steps=50, decay_share=0.6, ema_decay=0.99
    )
    judgement: LoopSettings = _saved_often(
        steps=3000, batch_size=32, learning_rate=1e-3, warmup_steps=100, decay_share=0.5, ema_decay=0.995
    )
    pairs_per_user: int = 8
    real_question_share: float = 0.5
    """Share of questions on pairs that the person has an opinion on; the others are any two pictures of a caption."""


def train_vlm(atlas: Atlas, settings: VlmSettings, out: Path, work: Path, device: torch.device) -> None:
    """Train all of it into `out`, in the hub's layout; `work` holds the states to resume from and what was measured."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.sight.seed)
    processor = build_processor(settings.architecture)
    model = build_model(settings.architecture, processor.tokenizer).to(device)
    sight = train_sight(settings, model, atlas, work, device)
    train_judgement(settings, model, processor, sight, atlas, out, work, device)


def train_sight(
    settings: VlmSettings, model: LlavaOnevisionForConditionalGeneration, atlas: Atlas, work: Path, device: torch.device
) -> Sight:
    """Train the vision tower and the projector of `model` in place, and freeze them."""
    sight, loop, state = Sight(model).to(device), settings.sight, work / "sight.safetensors"
    render_cache = RenderCache(atlas, seeds.rng("pretrain", "vlm", "album", loop.seed), settings.render_cache_size)
    held_out = RenderCache(atlas, seeds.rng("evaluation", "vlm", "album"), settings.held_out_pictures)

    def loss_at(step: int) -> Tensor:
        return sight_loss(sight, render_cache, loop.seed, step, loop.batch_size, bf16=loop.bf16, device=device)

    def publish(curve: Curve) -> None:
        _log(work / "sight.jsonl", curve, sight_quality(sight, held_out, device))

    fit(sight, loss_at, loop, state, publish, title="sight")
    sight.load_state_dict(averaged_weights(state))
    return sight.eval().requires_grad_(False)


def train_judgement(
    settings: VlmSettings,
    model: LlavaOnevisionForConditionalGeneration,
    processor: ImageTextProcessor,
    sight: Sight,
    atlas: Atlas,
    out: Path,
    work: Path,
    device: torch.device,
) -> None:
    """Train the language model of `model` in place on what `sight` makes of fresh renders; publishes to `out`."""
    reader = Reader(model, processor.tokenizer).to(device)
    loop, state = settings.judgement, work / "judgement.safetensors"
    cache, n_pairs = PopulationCache(settings.people), settings.pairs_per_user
    render_cache = RenderCache(atlas, seeds.rng("pretrain", "vlm", "shelf", loop.seed), settings.render_cache_size)
    held_out = RenderCache(atlas, seeds.rng("evaluation", "vlm", "shelf", loop.seed), settings.render_cache_size)
    pool, held_out_pool = ScenePool.of(render_cache.scenes), ScenePool.of(held_out.scenes)
    sights, held_out_sights = see(sight, render_cache, device)[:, 0], see(sight, held_out, device)[:, 0]
    fixed = layout(n_pairs, (1, 2, min(4, n_pairs), n_pairs), (2, n_pairs))
    questions_after = np.array(fixed.questions_after)
    rng = seeds.rng("evaluation", "vlm", "exam")
    test = sample_batch(rng, cache, held_out_pool, settings.held_out_people, n_pairs, questions_after, real_share=1.0)

    def loss_at(step: int) -> Tensor:
        rng = seeds.rng("pretrain", "vlm", "people", loop.seed, step)
        plan = sample_packing(rng, n_pairs)
        questions_after = np.array(plan.questions_after)
        batch = sample_batch(rng, cache, pool, loop.batch_size, n_pairs, questions_after, settings.real_question_share)
        hidden = read(reader, batch, plan, pool, sights, bf16=loop.bf16)
        return batch_loss(reader, hidden, batch, plan, pool)["total"]

    def publish(curve: Curve) -> None:
        quality = population_quality(reader, cache, held_out_pool, held_out_sights, test, fixed)
        _log(work / "judgement.jsonl", curve, quality)
        _save(settings, model, processor, curve, out)

    curve = fit(reader, loss_at, loop, state, publish, title="judgement")
    # A run that was killed between its last state and its last publication only needs this.
    reader.load_state_dict(averaged_weights(state))
    _save(settings, model, processor, curve, out)


def _save(
    settings: VlmSettings,
    model: LlavaOnevisionForConditionalGeneration,
    processor: ImageTextProcessor,
    curve: Curve,
    out: Path,
) -> None:
    """The hub's folder layout, with settings and loss curve; replaces `out` whole."""
    with atomic_path(out) as folder:
        folder.mkdir()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "settings.json").write_text(settings.model_dump_json(indent=2))
        save_curve(curve, folder, title="nano LLaVA-OneVision, judgement")


def _log(file: Path, curve: Curve, quality: dict[str, float]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps({"step": curve[-1].step, "loss": round(curve[-1].loss, 4), **quality}) + "\n")
