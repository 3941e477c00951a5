"""A log of Pick-a-Pic's schema that is cheap to make and to ingest, for benchmarks of what is around the models."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ppd.preferences.schema import PICK_A_PIC

ROWS_PER_USER = 12


def rows_of(users: range) -> pa.Table:
    """Sound rows of Pick-a-Pic's schema; two images of their own each, small and of the same bytes everywhere."""
    jpgs = []
    for noise in np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8):
        Image.fromarray(noise).save(buffer := io.BytesIO(), "JPEG")
        jpgs.append(buffer.getvalue())
    n = len(users) * ROWS_PER_USER
    at = np.arange(users.start * ROWS_PER_USER, users.start * ROWS_PER_USER + n)
    uids = [[f"{number}-{side}" for number in at] for side in "ab"]
    columns: dict[str, Any] = {
        "are_different": [True] * n,
        "best_image_uid": uids[0],
        "caption": [f"a sticker of thing {number * 7 % 31}" for number in at],
        "created_at": np.datetime64("2023-02-01", "ns") + at * np.timedelta64(1, "m"),
        "has_label": [True] * n,
        "image_0_uid": uids[0],
        "image_1_uid": uids[1],
        "jpg_0": [jpgs[0]] * n,
        "jpg_1": [jpgs[1]] * n,
        "label_0": [1.0] * n,
        "label_1": [0.0] * n,
        "ranking_id": at,
        "user_id": np.repeat(np.asarray(users), ROWS_PER_USER),
    }
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in PICK_A_PIC]
    return pa.Table.from_arrays(arrays, schema=PICK_A_PIC)
