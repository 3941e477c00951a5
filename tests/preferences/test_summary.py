"""What `ppd data summary` shows."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ppd.preferences.ingest import ingest
from ppd.preferences.store import Preferences
from ppd.preferences.summary import contact_sheet, summarise
from ppd.settings import PreferenceSettings


def plain(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), colour).save(buffer, "PNG")
    return buffer.getvalue() + np.random.default_rng().bytes(8)  # trailing bytes: another file, the same picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory, logs):
    """Everybody chooses blue over yellow."""
    root = tmp_path_factory.mktemp("summary")
    rows = logs.rows(48)
    for row in rows:
        first_wins = row["label_0"] == 1
        row["jpg_0"], row["jpg_1"] = (plain("blue"), plain("yellow"))[:: 1 if first_wins else -1]
    rows[7]["label_0"] = float("nan")
    logs.write(root / "a.parquet", rows)
    ingest(PreferenceSettings(), root / "a.parquet", root / "out")
    return root / "out"


def test_the_tables_name_counts_users_and_refusals(folder):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summarise(folder))
    text = console.export_text()
    preferences = Preferences.open(folder)
    for fact in ("rows read", "48", f"{len(preferences.pairs)}", "label_missing", "a.parquet row 7", "validation"):
        assert fact in text


def test_the_picture_shows_chosen_left_and_rejected_right(folder, tmp_path):
    summarise(folder, tmp_path / "sheet.png", n_users=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    left, right = np.array_split(sheet, 2, axis=1)

    def share(half: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((np.abs(half - colour).max(axis=-1) < 10).mean())

    assert share(left, (0, 0, 255)) > 0.2 > 0.0 == share(right, (0, 0, 255))
    assert share(right, (255, 255, 0)) > 0.2 > 0.0 == share(left, (255, 255, 0))
    band = contact_sheet(Preferences.open(folder), 1)
    assert sheet.shape[:2] == (2 * band.height, band.width)
