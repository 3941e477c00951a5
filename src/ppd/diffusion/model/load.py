"""A base from its folder: what the folder holds decides which class reads it."""

from pathlib import Path

import torch

from ppd.diffusion.model.backbone import Backbone, Codec
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.settings import Precision


def load_backbone(
    folder: str | Path,
    *,
    codec: Codec | None = None,
    revision: str | None = None,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> Backbone:
    """The base in a folder (or hub id) in the hub's layout. Without a `codec`, the folder's own is loaded.

    Raises InputError for a folder that holds none that is known, and for what the base's own class refuses.
    """
    return StableCascadeBackbone.from_pretrained(
        folder, codec=codec, revision=revision, precision=precision, device=device
    )
