"""Sampling many images and keeping them: resumable, and the same whatever order or interruption they came in."""

import io
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
from ppd.diffusion.sampling.store import PNG, write_samples
from ppd.files import atomic_path
from ppd.parts import share
from ppd.resumable import work_folder
from ppd.settings import SamplingSettings
from ppd.stored_tables import read_frame, write_table

BATCHES_PER_UNIT = 4


def sample_images(
    requests: pd.DataFrame,
    backbone: Backbone,
    settings: SamplingSettings,
    file: Path,
    unfinished: Path,
    *,
    adapter: UserAttention | None = None,
    users: Mapping[str, Tensor] | None = None,
    identity: str = "",
) -> None:
    """Sample every row of `requests` (user_id, caption, seed) and write it, with its PNG, to the parquet `file`.

    users: the embedding [rows, dim] of each user_id; one that is not there is sampled without a user. identity: names
    the adapter (`checkpoint.adapter_identity`). Several processes may share the work (`ppd.parts`). A killed run goes
    on with the units in `unfinished`, if they are of the same weights, settings and requests.
    """
    users = users or {}
    columns = (requests[column].tolist() for column in ("user_id", "caption", "seed"))
    wanted = [Request(caption, seed, users.get(user_id)) for user_id, caption, seed in zip(*columns, strict=True)]
    work = work_folder(unfinished, [backbone.fingerprint, identity, settings, requests.to_numpy().tolist()])
    size = settings.batch_size * BATCHES_PER_UNIT
    starts = range(0, max(1, len(requests)), size)  # one empty unit, where there is nothing to sample
    units = [work / f"{start:08d}.parquet" for start in starts]

    def make(number: int) -> None:
        rows = slice(starts[number], starts[number] + size)
        images = [_png(image) for image in sample(backbone, wanted[rows], settings, adapter)]
        with atomic_path(units[number]) as fresh:
            write_table(requests.iloc[rows].assign(**{PNG: images}), fresh)

    if share(units, [len(wanted[start : start + size]) for start in starts], make, label="sample", check=read_frame):
        with atomic_path(file) as fresh:
            write_samples(units, fresh)
        shutil.rmtree(unfinished)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
