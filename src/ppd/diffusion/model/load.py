"""A base from its folder: what the folder says that it is decides which class reads it."""

from contextlib import suppress
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from ppd.bf16_on_cpu import lacks_bf16
from ppd.diffusion.model.backbone import Backbone, Codec
from ppd.diffusion.model.codecs import load_codec
from ppd.diffusion.model.frozen import DTYPES
from ppd.diffusion.model.memory import NoRoom
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.model.unet import UNetBackbone
from ppd.diffusion.model.z_image import ZImageBackbone
from ppd.errors import InputError
from ppd.parts import here
from ppd.settings import Precision

CLASSES: dict[str, type[StableCascadeBackbone] | type[UNetBackbone] | type[ZImageBackbone]] = {
    "StableCascadePriorPipeline": StableCascadeBackbone,
    "StableDiffusionPipeline": UNetBackbone,
    "StableDiffusionXLPipeline": UNetBackbone,
    "ZImagePipeline": ZImageBackbone,
}
"""The pipelines of diffusers whose folders are bases here."""


def load_backbone(
    folder: str | Path,
    *,
    codec: Codec | None = None,
    revision: str | None = None,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> Backbone:
    """The base in a folder (or hub id) in the hub's layout. Without a `codec`, the folder's own is loaded.

    `model_index.json` names the pipeline; without one, a folder with `prior/` is a Stable Cascade. Raises InputError
    for one that is not known, for fp16, and for what the base's own class refuses. bf16 is fp32 on a CPU without
    instructions for it, where the network has room in fp32.
    """
    if precision == "fp16":
        raise InputError("these bases overflow in fp16 and return NaN", fix="Use precision: bf16 or fp32")
    OwnBackbone = CLASSES[_pipeline(folder, revision)]

    def load(precision: Precision) -> Backbone:
        own = codec or load_codec(folder, revision, DTYPES[precision], device)
        return OwnBackbone.from_pretrained(folder, codec=own, revision=revision, precision=precision, device=device)

    if precision == "bf16" and lacks_bf16(device):
        # Of several processes the first alone asks for room: the others would not know what it came to.
        with suppress(*([NoRoom] if here().count == 1 else [])):
            return load("fp32")
    return load(precision)


def _pipeline(folder: str | Path, revision: str | None) -> str:
    """The name of one of `CLASSES`."""
    if (Path(folder) / "prior").is_dir():
        return "StableCascadePriorPipeline"
    try:
        name = str(DiffusionPipeline.load_config(folder, revision=revision)["_class_name"])
    except (OSError, KeyError) as error:
        raise InputError(
            "neither model_index.json, which says what a base is, nor prior/ of a Stable Cascade",
            file=folder,
            fix="Copy the whole folder of the model",
        ) from error
    if name not in CLASSES:
        raise InputError(
            f"a {name}, which is no base here; known are {', '.join(CLASSES)}", file=Path(folder) / "model_index.json"
        )
    return name
