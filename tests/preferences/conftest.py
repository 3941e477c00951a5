"""A small log to break: schema-true rows of Pick-a-Pic, and ways to write them."""

import datetime
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from ppd.preferences.schema import PICK_A_PIC

# How long an example takes says more about who else uses the machine than about the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

Row = dict[str, Any]


class Logs:
    """Makes rows of a log. Everything follows from the numbers given, so tests can say what must come out."""

    def image(self, name: str, size: tuple[int, int] = (24, 16), kind: str = "JPEG") -> bytes:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.getvalue()

    def row(self, number: int, **changes: Any) -> Row:
        """Row `number`: 12 rows a user, two images of its own, image 0 wins when `number` is even."""
        wins = number % 2 == 0
        uids = f"{number:06d}-a", f"{number:06d}-b"
        row = {
            "are_different": True,
            "best_image_uid": uids[0] if wins else uids[1],
            "caption": f"a sticker of thing {number % 29}",
            "created_at": datetime.datetime(2023, 2, 1) + datetime.timedelta(minutes=number),
            "has_label": True,
            "image_0_uid": uids[0],
            "image_0_url": f"https://example.org/{uids[0]}.png",
            "image_1_uid": uids[1],
            "image_1_url": f"https://example.org/{uids[1]}.png",
            "jpg_0": self.image(uids[0]),
            "jpg_1": self.image(uids[1]),
            "label_0": 1.0 if wins else 0.0,
            "label_1": 0.0 if wins else 1.0,
            "model_0": "stickers",
            "model_1": "stickers",
            "ranking_id": 1000 + number,
            "user_id": number // 12,
            "num_example_per_prompt": 1,
            "__index_level_0__": number,
        }
        return row | changes

    def rows(self, n: int) -> list[Row]:
        return [self.row(number) for number in range(n)]

    def write(self, path: Path, rows: list[Row], schema: pa.Schema = PICK_A_PIC, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
        return path


@pytest.fixture(scope="session")
def logs() -> Logs:
    return Logs()
