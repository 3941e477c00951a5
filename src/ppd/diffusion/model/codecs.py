"""Which codec a base's folder holds."""

from pathlib import Path

import torch

from ppd.diffusion.model.cascade_codec import CascadeCodec
from ppd.diffusion.model.codec import ImageCodec
from ppd.diffusion.model.vae_codec import VaeCodec
from ppd.errors import InputError


def load_codec(
    folder: str | Path, revision: str | None, dtype: torch.dtype, device: torch.device | str
) -> CascadeCodec | ImageCodec | VaeCodec:
    """What lies in `codec/`, a copy of stabilityai/stable-cascade or the nano one; else the AutoencoderKL in `vae/`.

    dtype: of Stable Cascade's Stage B. Raises InputError where there is neither.
    """
    if CascadeCodec.is_in(Path(folder) / "codec"):
        return CascadeCodec.from_pretrained(Path(folder) / "codec", dtype=dtype)
    if (Path(folder) / "vae").is_dir() and not (Path(folder) / "codec").is_dir():
        return VaeCodec.from_pretrained(folder, revision=revision)
    try:
        return ImageCodec.from_pretrained(folder, subfolder="codec", revision=revision, use_safetensors=True).to(device)
    except OSError as error:
        raise InputError(
            f"no image codec: {error}", file=f"{folder}/codec", fix="Put a copy of stabilityai/stable-cascade there"
        ) from error
