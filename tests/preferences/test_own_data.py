"""docs/own-data.md, read from its own text, and what else a table of one's own may hold."""

import base64
import io
import json
import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.preferences.folder import Folder
from ppd.preferences.rows import Position, RawRow, Refusal
from ppd.settings import ChoiceWords, ColumnSettings, Settings, load_settings

DOCS = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")
CAPTIONS = ["a sticker of a fox", "a sticker of an owl", "a sticker of a cat"]
LEFT, RIGHT, TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)

EXPECTED = {
    "Your own choices": [
        ("ann", CAPTIONS[0], LEFT),
        ("ann", CAPTIONS[1], RIGHT),
        ("ben", "a sticker of a cat,\nasleep", TIE),
    ],
    "Left and right": [("17", CAPTIONS[0], LEFT), ("17", CAPTIONS[1], RIGHT), ("18", CAPTIONS[2], TIE)],
    "HPDv2: images by number, a preference of 1 or −1": [
        ("9f3c", CAPTIONS[0], LEFT),
        ("9f3c", CAPTIONS[1], RIGHT),
        ("07", CAPTIONS[2], TIE),
    ],
    "Argilla: one record, one answer of every annotator": [
        ("1f0e", CAPTIONS[0], LEFT),
        ("77ab", CAPTIONS[0], RIGHT),
        ("1f0e", CAPTIONS[1], TIE),
        ("77ab", CAPTIONS[1], None),
    ],
}


def sections() -> dict[str, list[tuple[str, str]]]:
    """Blocks of code, (language, text) each, by the heading above them."""
    parts = re.split(r"^#+ (.*)\n", DOCS, flags=re.MULTILINE)[1:]
    blocks = {
        heading: re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: found for heading, found in blocks.items() if found}


def read(root: Path, columns: ColumnSettings | None = None) -> list[RawRow | Refusal]:
    source = Folder.open(root, 10_000, columns)
    rows = [row for batch in source.batches(Position(0, 0)) for row in batch.rows]
    assert source.n_rows == len(rows)
    return rows


def labels(row: RawRow) -> tuple[float, float] | None:
    return (row.label_0, row.label_1) if row.has_label else None


@pytest.fixture
def folder(tmp_path, logs):
    (tmp_path / "images").mkdir()
    for number in range(1, 7):
        (tmp_path / f"images/{number}.png").write_bytes(logs.image(str(number), kind="PNG"))
    return tmp_path


def test_every_block_of_the_page_is_tried():
    assert sections().keys() == EXPECTED.keys()


@pytest.mark.parametrize("heading", EXPECTED)
def test_the_page_does_what_it_says(folder, heading):
    blocks = dict(sections()[heading])
    settings = Settings()
    if "yaml" in blocks:
        (folder / "params.yaml").write_text(blocks.pop("yaml"), encoding="utf-8")
        settings = load_settings(folder / "params.yaml")
        assert settings.preferences.source_format == "folder"
    ((kind, table),) = blocks.items()
    (folder / f"choices.{kind}").write_text(table, encoding="utf-8")
    rows = read(folder, settings.preferences.columns)
    assert [row for row in rows if isinstance(row, Refusal)] == []
    assert [(row.user_id, row.caption, labels(row)) for row in rows] == EXPECTED[heading]
    assert rows[0].image_0 == (folder / "images/1.png").read_bytes()
    assert rows[0].image_1 == (folder / "images/2.png").read_bytes()


def test_argilla_in_parquet_is_the_same(folder):
    blocks = dict(sections()["Argilla: one record, one answer of every annotator"])
    (folder / "params.yaml").write_text(blocks["yaml"])
    columns = load_settings(folder / "params.yaml").preferences.columns
    records = [json.loads(line) for line in blocks["jsonl"].splitlines()]
    for record in records:
        for side in ("image_left", "image_right"):  # as `datasets` keeps an image
            record[side] = {"bytes": (folder / record[side]).read_bytes(), "path": None}
    pq.write_table(pa.Table.from_pylist(records), folder / "choices.parquet")
    of_parquet = read(folder, columns)
    (folder / "choices.parquet").unlink()
    (folder / "choices.jsonl").write_text(blocks["jsonl"])
    of_json = read(folder, columns)
    assert [row._replace(file="") for row in of_parquet] == [row._replace(file="") for row in of_json]


def test_lists_of_other_lengths_cost_their_record(folder):
    columns = ColumnSettings(user="users")
    record = {"users": ["a", "b"], "caption": "a fox", "image_a": "images/1.png", "image_b": "images/2.png"}
    records = [record | {"choice": ["a"]}, record | {"choice": "a"}, record | {"choice": ["a", "b"]}]
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, records)))
    first, second, third, fourth = read(folder, columns)
    assert first.reason == second.reason == "wrong_type"
    assert "lists of different lengths" in first.detail
    assert [row.user_id for row in (third, fourth)] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((value, LEFT) for value in (1, 1.0, "1", "+1", " 1.0 ", "left", "Left ", True)),
        *((value, RIGHT) for value in (-1, -1.0, "-1", "RIGHT")),
        *((value, TIE) for value in (0, "0", "tie", 0.5, "0.5")),
    ],
)
def test_words_of_a_choice(folder, value, found):
    words = ChoiceWords(a=(1, "left", True), b=(-1, "right"), tie=(0, "tie", 0.5))
    record = {"user": "ann", "caption": "a fox", "image_a": "images/1.png", "image_b": "images/2.png", "choice": value}
    (folder / "choices.jsonl").write_text(json.dumps(record))
    (row,) = read(folder, ColumnSettings(choices=words))
    assert labels(row) == found


def test_a_choice_that_no_word_fits_names_the_words(folder):
    record = {"user": "ann", "caption": "a fox", "image_a": "images/1.png", "image_b": "images/2.png", "choice": "left"}
    (folder / "choices.jsonl").write_text(json.dumps(record))
    (row,) = read(folder)
    assert (row.reason, row.detail) == ("choice_invalid", "choice: found 'left'; expected a, b or tie")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"choices": {"a": [1], "b": ["1.0"]}}, "1 means more than one thing"),
        ({"choices": {"a": [], "b": ["b"]}}, "a and b need a word each"),
        ({"image_a": "image", "image_b": "image"}, "five different columns"),
        ({"image_file": "images/1.png"}, "expected one {}"),
        ({"image_file": "{}/{}.png"}, "expected one {}"),
        ({"image_a_id": "id"}, "belong together"),
    ],
)
def test_settings_that_cannot_be_meant(columns, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ColumnSettings(**columns)


def png(logs, number: int) -> bytes:
    return logs.image(str(number), kind="PNG")


def test_images_inside_the_table(folder, logs):
    data = [png(logs, number) for number in (1, 2)]
    row = {"user": "ann", "caption": "a fox", "choice": "a"}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: [row[name]] * 3 for name in row}
    variants = {
        "binary": [pa.array([data[side]] * 3) for side in (0, 1)],
        "large binary": [pa.array([data[side]] * 3, pa.large_binary()) for side in (0, 1)],
        "struct": [
            pa.array([{"bytes": data[side], "path": "x"}, {"bytes": data[side]}, None][::1], struct) for side in (0, 1)
        ],
        "paths in a struct": [pa.array([{"path": f"images/{side + 1}.png"}] * 3, struct) for side in (0, 1)],
        "paths as bytes": [pa.array([f"images/{side + 1}.png".encode()] * 3) for side in (0, 1)],
        "paths as a dictionary": [pa.array([f"images/{side + 1}.png"] * 3).dictionary_encode() for side in (0, 1)],
    }
    for name, (image_a, image_b) in variants.items():
        table = pa.table({**columns, "image_a": image_a, "image_b": image_b})
        pq.write_table(table, folder / "choices.parquet")
        rows = read(folder)
        assert [(r.image_0, r.image_1) for r in rows[:2]] == [tuple(data)] * 2, name
        assert isinstance(rows[2], Refusal) == (name == "struct"), name
    (folder / "choices.parquet").unlink()
    urls = {
        f"image_{side}": f"data:image/png;base64,{base64.b64encode(d).decode()}"
        for side, d in zip("ab", data, strict=True)
    }
    broken = row | urls | {"image_b": "data:image/png;base64,@@"}
    (folder / "choices.jsonl").write_text(json.dumps(row | urls) + "\n" + json.dumps(broken))
    first, second = read(folder)
    assert (first.image_0, first.image_1) == tuple(data)
    assert second.reason == "image_undecodable"


USERS = {
    "whole floats with a hole": pa.array([7.0, None, 7.0]),
    "floats with NaN": pa.array([7.0, float("nan"), 7.0]),
    "integers": pa.array([7, None, 7]),
    "unsigned": pa.array([7, None, 7], pa.uint64()),
    "decimals": pa.array([Decimal("7.00"), None, Decimal("7.00")]),
    "text": pa.array(["7", "", "7.0"]),
    "large text": pa.array(["7", None, " 7"], pa.large_string()),
    "text view": pa.array(["7", None, "7"], pa.string_view()),
    "text as bytes": pa.array([b"7", b" ", b"7"]),
    "a dictionary": pa.array(["7", None, "7"]).dictionary_encode(),
    "a dictionary of numbers": pa.array([7.0, None, 7.0]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", USERS)
def test_users_of_every_type_are_one(folder, kind, logs):
    row = {"caption": "a fox", "image_a": "images/1.png", "image_b": "images/2.png", "choice": "a"}
    table = pa.table({"user": USERS[kind], **{name: [value] * 3 for name, value in row.items()}})
    pq.write_table(table, folder / "choices.parquet")
    first, second, third = read(folder)
    assert first.user_id == third.user_id == "7"
    assert (second.reason, second.detail) == ("value_missing", "user")


def test_columns_without_any_value_cost_rows_not_the_run(folder):
    row = {"user": "ann", "caption": None, "image_a": "images/1.png", "image_b": "images/2.png", "choice": "a"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "choices.parquet")
    (found,) = read(folder)
    assert (found.reason, found.detail) == ("value_missing", "caption")


def test_the_table_is_found_in_any_case_and_hidden_files_beside_it_are_not(folder):
    row = "ann,a fox,images/1.png,images/2.png,a\n"
    (folder / "choices.CSV").write_text("user,caption,image_a,image_b,choice\n" + row)
    for name in ("._choices.csv", ".DS_Store", "Thumbs.db", "desktop.ini", "choices.csv~", "choices.txt"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "choices.jsonl").mkdir()
    assert [row.user_id for row in read(folder)] == ["ann"]
    with pytest.raises(InputError, match="found none"):
        Folder.open(folder / "images", 10_000)
    (folder / "images" / "choices.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"expected exactly one of choices.csv, .*; found choices.xlsx"):
        Folder.open(folder / "images", 10_000)


def test_a_picture_of_the_wrong_kind_is_refused_when_it_is_cleaned_not_when_it_is_read(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    (folder / "images/1.png").write_bytes(buffer.getvalue())
    (folder / "choices.csv").write_text("user,caption,image_a,image_b,choice\nann,a fox,images/1.png,images/2.png,a\n")
    assert isinstance(read(folder)[0], RawRow)
