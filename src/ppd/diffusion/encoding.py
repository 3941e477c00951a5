"""Encode every image and caption of the preferences once, so that no epoch pays for it again."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.diffusion.backbone import Backbone, Text
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.preferences.store import Preferences
from ppd.progress import progress_bar

LATENTS, IMAGES, TEXT, CAPTIONS = "latents.npy", "images.parquet", "text.safetensors", "captions.parquet"


@dataclass(frozen=True)
class Encoded:
    """What `encode` left: latents [I, C, h, w] in fp16, memory-mapped, and text by caption."""

    latents: Tensor
    image_row: pd.Series
    """image_uid -> row of latents"""
    text: Text
    caption_row: pd.Series
    """caption -> row of text"""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises InputError when `folder` is not one that `encode` finished."""
        if not (folder / LATENTS).is_file():
            raise InputError("no latents here", file=folder, fix="Run `ppd stage encode` first")
        uids = pd.read_parquet(folder / IMAGES).image_uid
        captions = pd.read_parquet(folder / CAPTIONS).caption
        # Copy-on-write keeps torch content with a read-only file; nothing ever writes.
        latents = torch.from_numpy(np.load(folder / LATENTS, mmap_mode="c"))
        return cls(
            latents=latents,
            image_row=pd.Series(range(len(uids)), index=uids),
            text=Text(**load_file(folder / TEXT)),
            caption_row=pd.Series(range(len(captions)), index=captions),
        )


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size as [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255


def resized(image: Image.Image, px: int) -> Image.Image:
    """The centred square of an image at `px` x `px`: what a backbone of that size was trained on."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == px else square.resize((px, px), Image.Resampling.LANCZOS)


def encode(preferences: Preferences, backbone: Backbone, out_dir: Path, *, image_px: int, batch_size: int) -> None:
    """Latents of all images that may be trained or measured on, and text of all captions, to `out_dir`.

    Images that only describe a person (support) are for the vision-language model alone and have no latents. A killed
    run goes on at its last finished batch; `out_dir` appears when all is done.
    """
    pairs = preferences.pairs[preferences.pairs.role.isin(["train", "eval"])]
    uids = sorted({*pairs.chosen_uid, *pairs.rejected_uid})
    captions = sorted({*preferences.captions.caption})
    key = hashlib.sha256(json.dumps([backbone.fingerprint, image_px, batch_size, uids]).encode()).hexdigest()[:16]
    partial = out_dir.parent / f".{out_dir.name}.partial-{key}"
    _forget_other_runs(partial)
    partial.mkdir(parents=True, exist_ok=True)
    _encode_images(preferences, backbone, uids, partial, image_px, batch_size)
    # Tens of thousands of captions are tens of GB: more than a device holds beside a model.
    parts = (backbone.encode_captions(captions[i : i + 256]) for i in range(0, len(captions), 256))
    text = Text.cat([part.to(torch.device("cpu")) for part in parts])
    with atomic_path(out_dir) as fresh:
        fresh.mkdir()
        (partial / LATENTS).rename(fresh / LATENTS)
        pd.DataFrame({"image_uid": uids}).to_parquet(fresh / IMAGES, index=False)
        pd.DataFrame({"caption": captions}).to_parquet(fresh / CAPTIONS, index=False)
        save_file({"tokens": text.tokens.contiguous(), "pooled": text.pooled.contiguous()}, fresh / TEXT)
    shutil.rmtree(partial)


def _forget_other_runs(partial: Path) -> None:
    for other in partial.parent.glob(f"{partial.name.rsplit('-', 1)[0]}-*"):
        if other != partial:
            shutil.rmtree(other)


def _encode_images(
    preferences: Preferences, backbone: Backbone, uids: list[str], partial: Path, image_px: int, batch_size: int
) -> None:
    """Fill partial/latents.npy from the first batch that is not marked as done."""
    marker = partial / "done"
    done = int(marker.read_text()) if marker.exists() else 0
    stored: np.memmap | None = np.lib.format.open_memmap(partial / LATENTS, mode="r+") if done else None
    # Large photographs take longer to shrink than a GPU needs to encode them; Pillow works beside other threads.
    with progress_bar() as progress, ThreadPoolExecutor() as pool:
        task = progress.add_task("encode", total=len(uids), completed=done)
        for start, images in _batches(preferences, uids, done, batch_size):
            squares = pool.map(lambda image: resized(image, image_px), images)
            latents = backbone.encode_images(to_tensor(list(squares)))
            if stored is None:
                shape = (len(uids), *latents.shape[1:])
                stored = np.lib.format.open_memmap(partial / LATENTS, mode="w+", dtype=np.float16, shape=shape)
            stored[start : start + len(images)] = latents.half().cpu().numpy()
            stored.flush()
            with atomic_path(marker) as fresh:
                fresh.write_text(str(start + len(images)))
            progress.advance(task, len(images))


def _batches(
    preferences: Preferences, uids: list[str], done: int, batch_size: int
) -> Iterator[tuple[int, list[Image.Image]]]:
    images = preferences.images(uids[done:], chunk=batch_size)
    for start in range(done, len(uids), batch_size):
        yield start, [next(images) for _ in range(min(batch_size, len(uids) - start))]
