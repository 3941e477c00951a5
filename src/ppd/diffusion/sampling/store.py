"""Draw many images and keep them: resumable, and the same whatever order or interruption they came in."""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.sampling.sampler import Request, sample
from ppd.files import atomic_path
from ppd.progress import progress_bar
from ppd.settings import SamplingSettings

BATCHES_PER_PART = 4


def draw(
    wanted: pd.DataFrame,
    backbone: Backbone,
    settings: SamplingSettings,
    file: Path,
    *,
    adapter: UserAttention | None = None,
    people: Mapping[str, Tensor] | None = None,
    identity: str = "",
) -> None:
    """Draw every row of `wanted` (user_id, caption, seed) and write it, with its PNG, to the parquet `file`.

    people: the embedding [rows, dim] of each user_id; a user_id that is not there is drawn for nobody. identity: names
    the adapter's weights; a killed run goes on only with the same weights, settings and wishes.
    """
    people = people or {}
    columns = (wanted[column].tolist() for column in ("user_id", "caption", "seed"))
    requests = [Request(caption, seed, people.get(user_id)) for user_id, caption, seed in zip(*columns, strict=True)]
    described = [backbone.fingerprint, identity, settings.model_dump(), wanted.to_numpy().tolist()]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    partial = file.parent / f".{file.name}.partial"
    if not (partial / key).exists():
        shutil.rmtree(partial, ignore_errors=True)
        (partial / key).mkdir(parents=True)
    size = settings.batch_size * BATCHES_PER_PART
    starts = range(0, max(1, len(wanted)), size)  # one empty part, where there is nothing to draw
    with progress_bar() as progress:
        task = progress.add_task("sample", total=len(wanted))
        for start in starts:
            part, chunk = partial / key / f"{start:08d}.parquet", requests[start : start + size]
            if not part.exists():
                images = [_png(image) for image in sample(backbone, chunk, settings, adapter)]
                with atomic_path(part) as fresh:
                    wanted.iloc[start : start + size].assign(png=images).to_parquet(fresh, index=False)
            progress.advance(task, len(chunk))
    parts = [pd.read_parquet(partial / key / f"{start:08d}.parquet") for start in starts]
    with atomic_path(file) as fresh:
        pd.concat(parts, ignore_index=True).to_parquet(fresh, index=False)
    shutil.rmtree(partial)


def read_samples(file: Path) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """What `draw` wrote: the wishes, and the images [N, H, W, 3] in the same order."""
    table = pd.read_parquet(file)
    images = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in table.png]
    return table.drop(columns="png"), np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
