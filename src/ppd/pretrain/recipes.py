"""What `ppd pretrain prior` (vlm, attribute-classifier, clip) and `ppd pretrain check` do: train, measure, write."""

from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from rich.console import Console

from ppd.diffusion.model.codec import ImageCodec
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.params import load_model
from ppd.pretrain.attribute_classifier import AttributeClassifierSettings, train_attribute_classifier
from ppd.pretrain.cards import write_card
from ppd.pretrain.clip import ClipSettings, train_clip
from ppd.pretrain.flow_prior import FlowPriorSettings, train_flow_prior
from ppd.pretrain.loop import LoopSettings
from ppd.pretrain.prior import PriorSettings, train_prior
from ppd.pretrain.quality import (
    Measure,
    attribute_classifier_measures,
    clip_measures,
    contact_sheet,
    prior_quality,
    table,
)
from ppd.pretrain.vlm import VlmSettings, train_vlm
from ppd.pretrain.vlm_quality import vlm_measures
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import PeopleSettings, SamplingSettings, load_settings
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.render import Atlas
from ppd.simulation.world import CONCEPTS
from ppd.vlm.transformers_backend import TransformersVlm

Name = Literal["prior", "flow-prior", "vlm", "attribute-classifier", "clip"]
Recipe = TypeVar("Recipe", PriorSettings, FlowPriorSettings, VlmSettings, AttributeClassifierSettings, ClipSettings)
ATLAS = Path("data/stickers")
MODELS = Path("data/models")
CODEC = MODELS / "prior" / "codec"
UNFINISHED = Path("runs/pretrain")
SAMPLES = "samples.png"


def recipe_settings(model: type[Recipe], file: Path | None, steps: int | None) -> Recipe:
    """The recipe's settings: its defaults or those of a file (YAML or JSON).

    steps: how long its training takes instead, or each of its trainings, if it has several.
    """
    settings = load_model(file, model) if file is not None else model()
    if steps is None:
        return settings
    loops = {name: loop for name, loop in settings if isinstance(loop, LoopSettings)}
    return settings.model_copy(update={name: loop.model_copy(update={"steps": steps}) for name, loop in loops.items()})


def pretrain(
    name: Name, out: Path, device: str, settings_file: Path | None, steps: int | None, codec: Path | None = None
) -> None:
    """Train one nano model into `out`.

    codec: for a prior, an image codec that is there already: the prior's then trains none, the flow prior's would be
    data/models/prior/codec. A killed run goes on from its state under runs/pretrain/; a finished one leaves none.
    """
    atlas, where, work = Atlas.load(ATLAS), torch.device(device), UNFINISHED / name
    work.mkdir(parents=True, exist_ok=True)
    state = work / "state.safetensors"
    match name:
        case "prior":
            train_prior(atlas, recipe_settings(PriorSettings, settings_file, steps), out, work, where, codec)
        case "flow-prior":
            recipe = recipe_settings(FlowPriorSettings, settings_file, steps)
            train_flow_prior(atlas, _there(codec or CODEC), recipe, out, work, where)
        case "vlm":
            train_vlm(atlas, recipe_settings(VlmSettings, settings_file, steps), out, work, where)
        case "attribute-classifier":
            reader = recipe_settings(AttributeClassifierSettings, settings_file, steps)
            train_attribute_classifier(atlas, _codec(), reader, out, state, where)
        case "clip":
            train_clip(atlas, _codec(), recipe_settings(ClipSettings, settings_file, steps), out, state, where)
    for finished in work.glob("*.safetensors"):
        finished.unlink()


def check(name: Name, folder: Path, n: int, text_guidance: float | None = None) -> list[Measure]:
    """Measure a nano model on about `n` held-out cases and write its card; prints and returns the figures."""
    atlas = Atlas.load(ATLAS)
    called = "prior --kind flow" if name == "flow-prior" else name
    command = f"ppd pretrain check {called} --n {n}"
    match name:
        case "prior" | "flow-prior":
            if name == "prior":
                sampling = load_settings().sampling
            else:
                sampling = SamplingSettings(
                    steps=20, sampler="euler", spacing=1.0, text_guidance=1.0, text_interval=(0.0, 1.0)
                )
            if text_guidance is not None:
                command += f" --text-guidance {text_guidance:g}"
                sampling = sampling.model_copy(update={"text_guidance": text_guidance})
            each = max(1, n // len(CONCEPTS))
            measures, images = prior_quality(_there(folder), _attribute_classifier(), _clip(), atlas, sampling, each)
            _save_samples(images, folder / SAMPLES)
        case "vlm":
            measures = vlm_measures(TransformersVlm.load(_there(folder)), atlas, PeopleSettings(), n)
        case "attribute-classifier":
            measures = attribute_classifier_measures(_attribute_classifier(folder), _codec(), atlas, n)
        case "clip":
            measures = clip_measures(_clip(folder), atlas, n)
    pictured = (folder / SAMPLES).exists()
    write_card(name, folder, measures, f"ppd pretrain {called}", command, pictured=pictured)
    Console().print(table(f"{name}, {folder}", measures))
    return measures


def _save_samples(images: np.ndarray, file: Path) -> None:
    """A column a caption, at most eight images in it; images come caption by caption."""
    by_caption = images.reshape(len(CONCEPTS), -1, *images.shape[1:])[:, :8]
    rows = by_caption.swapaxes(0, 1).reshape(-1, *images.shape[1:])
    with atomic_path(file) as fresh:
        contact_sheet(rows, columns=len(CONCEPTS), scale=1).save(fresh, format="png")


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError("no such model", file=folder, fix="Run `dvc pull`, or train it with `ppd pretrain`")
    return folder


def _codec() -> ImageCodec:
    return ImageCodec.from_pretrained(_there(CODEC)).eval()


def _attribute_classifier(folder: Path = MODELS / "attribute-classifier") -> AttributeClassifier:
    return AttributeClassifier.from_pretrained(_there(folder)).eval()


def _clip(folder: Path = MODELS / "clip") -> ClipScorer:
    return ClipScorer.from_pretrained(_there(folder))
