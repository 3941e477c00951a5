"""What `ppd data summary` shows."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from ppd.preferences.ingest import ingest
from ppd.preferences.schema import PICK_A_PIC
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


def test_markup_and_control_characters_of_a_log_stay_text(tmp_path, logs):
    rows = logs.rows(24)
    rows[3] |= {"best_image_uid": "[red]x[/] [bold] [/nothing] [link=https://example.org]y[/link]"}
    rows[5] |= {"jpg_0": rows[4]["jpg_0"], "image_0_uid": "[/]\\[blink]"}
    rows[6] |= {"caption": "[/red]", "user_id": 0}
    rows[9] |= {"label_0": 0.3, "best_image_uid": "\x1b[31m"}
    logs.write(tmp_path / "a.parquet", rows)
    ingest(PreferenceSettings(max_refused_share=0.5), tmp_path / "a.parquet", tmp_path / "out")
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=True)
    console.print(summarise(tmp_path / "out", tmp_path / "sheet.png"))
    shown = console.file.getvalue()
    assert "[red]x[/] [bold] [/nothing] [link=https://example.org]y[/link]" in console.export_text()
    assert "\x1b]8;" not in shown


def test_users_named_by_anything_have_a_sheet(tmp_path, logs):
    names = ["狐狸🦊", "[red]", "$x_1$", "a" * 500, "<b>"]
    table = [logs.row(n, user_id=names[n % 5]) for n in range(60)]
    schema = PICK_A_PIC.set(PICK_A_PIC.get_field_index("user_id"), pa.field("user_id", pa.string()))
    logs.write(tmp_path / "a.parquet", table, schema)
    ingest(PreferenceSettings(), tmp_path / "a.parquet", tmp_path / "out")
    assert contact_sheet(Preferences.open(tmp_path / "out"), 5).height > 0
