"""Recipe of the nano LLaVA-OneVision.

    ppd pretrain vlm

First sight (`vlm_pictures`): vision tower and projector learn with direct heads what a picture shows, then freeze.
Then judgement (`vlm_questions`): the language model learns from simulated people to say what an exact observer would
say. Half an hour on one CPU core; each part resumes after a kill at any moment.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from ppd.files import atomic_path
from ppd.settings import Component, PeopleSettings
from ppd.stickers import seeds
from ppd.stickers.pretrain.loop import Curve, LoopSettings, fit, save_curve
from ppd.stickers.pretrain.vlm_architecture import ArchitectureSettings, build_model, build_processor
from ppd.stickers.pretrain.vlm_packing import layout
from ppd.stickers.pretrain.vlm_people import Shelf, Society, teach
from ppd.stickers.pretrain.vlm_pictures import Album, Sight, see, sight_loss, sight_quality
from ppd.stickers.pretrain.vlm_questions import Reader, draw_plan, lesson_loss, read, society_quality
from ppd.stickers.render import Atlas
from ppd.vlm.processor import ImageTextProcessor


class VlmRecipe(Component):
    """Everything the recipe needs; written beside the weights."""

    architecture: ArchitectureSettings = ArchitectureSettings()
    people: PeopleSettings = PeopleSettings()
    album_size: int = 30_000
    """Renders for each part; the second part's are other ones than the first's."""
    held_out_pictures: int = 2000
    held_out_people: int = 512
    sight: LoopSettings = LoopSettings(
        steps=2000,
        batch_size=128,
        learning_rate=1.5e-3,
        warmup_steps=50,
        decay_share=0.6,
        ema_decay=0.99,
        checkpoint_every_s=60,
    )
    judgement: LoopSettings = LoopSettings(
        steps=6000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=100,
        decay_share=0.5,
        ema_decay=0.995,
        checkpoint_every_s=60,
        publish_every_s=300,
    )
    pairs_a_person: int = 8
    real_question_share: float = 0.5
    """Share of questions on pairs that the person has an opinion on; the others are any two pictures of a caption."""


def train_sight(
    recipe: VlmRecipe, model: LlavaOnevisionForConditionalGeneration, atlas: Atlas, runs: Path
) -> tuple[Sight, Curve]:
    """Train the vision tower and the projector of `model` in place."""
    sight = Sight(model)
    settings = recipe.sight
    album = Album(atlas, seeds.rng("pretrain", "vlm", "album", settings.seed), recipe.album_size)
    held_out = Album(atlas, seeds.rng("evaluation", "vlm", "album"), recipe.held_out_pictures)

    def publish(curve: Curve) -> None:
        _log(runs / "sight.jsonl", curve, sight_quality(sight, held_out))

    curve = fit(
        sight,
        lambda step: sight_loss(sight, album, settings.seed, step, settings.batch_size, bf16=settings.bf16),
        settings,
        runs / "sight.safetensors",
        publish,
        title="sight",
    )
    return sight, curve


def train_judgement(
    recipe: VlmRecipe,
    model: LlavaOnevisionForConditionalGeneration,
    processor: ImageTextProcessor,
    sight: Sight,
    atlas: Atlas,
    runs: Path,
    target: Path,
) -> Curve:
    """Train the language model of `model` in place on what `sight` makes of fresh renders; publishes to `target`."""
    settings = recipe.judgement
    reader = Reader(model, processor.tokenizer)
    society = Society(recipe.people)
    album, held_out = (
        Album(atlas, seeds.rng(purpose, "vlm", "shelf", settings.seed), recipe.album_size)  # type: ignore[arg-type]
        for purpose in ("pretrain", "evaluation")
    )
    shelf, held_out_shelf = Shelf.of(album.scenes), Shelf.of(held_out.scenes)
    sights, held_out_sights = see(sight, album)[:, 0], see(sight, held_out)[:, 0]
    exam_plan = layout(
        recipe.pairs_a_person, (1, 2, min(4, recipe.pairs_a_person), recipe.pairs_a_person), (2, recipe.pairs_a_person)
    )
    exam = teach(
        seeds.rng("evaluation", "vlm", "exam"),
        society,
        held_out_shelf,
        recipe.held_out_people,
        recipe.pairs_a_person,
        np.array(exam_plan.asked_after),
        real_share=1.0,
    )

    def loss_at(step: int) -> torch.Tensor:
        rng = seeds.rng("pretrain", "vlm", "people", settings.seed, step)
        plan = draw_plan(rng, recipe.pairs_a_person)
        lesson = teach(
            rng,
            society,
            shelf,
            settings.batch_size,
            recipe.pairs_a_person,
            np.array(plan.asked_after),
            recipe.real_question_share,
        )
        hidden = read(reader, lesson, plan, shelf, sights, bf16=settings.bf16)
        return lesson_loss(reader, hidden, lesson, plan, shelf)["total"]

    def publish(curve: Curve) -> None:
        _log(
            runs / "judgement.jsonl",
            curve,
            society_quality(reader, society, held_out_shelf, held_out_sights, exam, exam_plan),
        )
        save(recipe, model, processor, curve, target)

    return fit(reader, loss_at, settings, runs / "judgement.safetensors", publish, title="judgement")


def save(
    recipe: VlmRecipe,
    model: LlavaOnevisionForConditionalGeneration,
    processor: ImageTextProcessor,
    curve: Curve,
    target: Path,
) -> None:
    """The hub's folder layout, with settings and loss curve; replaces `target` whole."""
    with atomic_path(target) as folder:
        folder.mkdir()
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "settings.json").write_text(recipe.model_dump_json(indent=2))
        save_curve(curve, folder, title="nano LLaVA-OneVision, judgement")


def pretrain(recipe: VlmRecipe, atlas_folder: Path, runs: Path, target: Path) -> None:
    """Train all of it; `runs` holds the states to resume from, `target` the checkpoint."""
    runs.mkdir(parents=True, exist_ok=True)
    atlas = Atlas.load(atlas_folder)
    torch.manual_seed(recipe.sight.seed)
    processor = build_processor(recipe.architecture)
    model = build_model(recipe.architecture, processor.tokenizer)
    sight, _ = train_sight(recipe, model, atlas, runs)
    sight.requires_grad_(False)
    train_judgement(recipe, model, processor, sight, atlas, runs, target)


def _log(file: Path, curve: Curve, quality: dict[str, float]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps({"step": curve[-1].step, "loss": round(curve[-1].loss, 4), **quality}) + "\n")
