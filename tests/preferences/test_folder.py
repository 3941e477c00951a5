"""Reading a folder of one's own, sound and broken ones."""

import csv
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppd.errors import InputError
from ppd.preferences.folder import COLUMNS, Folder
from ppd.preferences.rows import Position, RawRow, Refusal

START = Position(0, 0)
CHOICES = [
    {"user": "ann", "caption": "a fox", "image_a": "images/1.png", "image_b": "images/2.png", "choice": "a"},
    {
        "user": "bob",
        "caption": 'ein "Füchslein", 🦊\nzwei',
        "image_a": "./images/3.png",
        "image_b": "4.png",
        "choice": "B ",
    },
    {"user": "ann", "caption": "狐狸", "image_a": "images/1.png", "image_b": "images/ü.png", "choice": "tie"},
]


@pytest.fixture
def folder(tmp_path, logs):
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    for name in ("images/1.png", "images/2.png", "images/3.png", "images/ü.png", "4.png"):
        (root / name).write_bytes(logs.image(name, kind="PNG"))
    return root


def write(root: Path, kind: str, choices) -> None:
    table = root / f"choices.{kind}"
    if kind == "csv":
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, choices[0])
            writer.writeheader()
            writer.writerows(choices)
    elif kind == "jsonl":
        table.write_text("\n".join(json.dumps(choice) for choice in choices))
    else:
        pq.write_table(pa.Table.from_pylist(choices), table)


def read(root: Path):
    return [row for batch in Folder.open(root, 10_000).batches(START) for row in batch.rows]


def one(root: Path, **changes):
    write(root, "jsonl", [CHOICES[0] | changes])
    (row,) = read(root)
    return row


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_rows(folder, kind):
    write(folder, kind, CHOICES)
    rows = read(folder)
    assert [(row.user_id, row.caption) for row in rows] == [(row["user"], row["caption"]) for row in CHOICES]
    assert [(row.label_0, row.label_1) for row in rows] == [(1, 0), (0, 1), (0.5, 0.5)]
    assert rows[0].best_uid == rows[0].uid_0
    assert rows[1].best_uid == rows[1].uid_1
    assert rows[0].image_0 == (folder / "images/1.png").read_bytes()
    assert rows[0].uid_0 == rows[2].uid_0 != rows[2].uid_1
    assert Folder.open(folder, 10_000).n_rows == 3


def test_the_same_picture_under_two_names_is_one_image(folder):
    (folder / "copy.png").write_bytes((folder / "images/1.png").read_bytes())
    write(folder, "csv", [CHOICES[0], CHOICES[0] | {"image_a": "copy.png"}])
    first, second = read(folder)
    assert first.uid_0 == second.uid_0


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "//host/share/1.png", "C:/1.png", "C:1.png", "\\1.png", "\\\\host\\s\\1.png"]
)
def test_absolute_paths_are_refused(folder, path):
    row = one(folder, image_a=path)
    assert row.reason == "path_absolute"
    assert "expected a path relative to the folder" in row.detail


@pytest.mark.parametrize(
    "path", ["../secret.png", "images/../../secret.png", "images/../1.png", "..\\secret.png", ".."]
)
def test_paths_that_climb_are_refused(folder, path):
    (folder.parent / "secret.png").write_bytes((folder / "4.png").read_bytes())
    assert one(folder, image_b=path).reason == "path_outside"


def test_links_that_lead_out_are_refused(folder):
    (folder.parent / "secret.png").write_bytes((folder / "4.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    assert one(folder, image_a="link.png").reason == "path_outside"


@pytest.mark.parametrize("path", ["nowhere.png", "images", "images/\0.png", "x" * 5000, "4.png/4.png"])
def test_files_that_cannot_be_read_are_refused(folder, path):
    assert one(folder, image_a=path).reason == "image_missing"


def test_a_huge_file_is_not_read(folder):
    with (folder / "huge.png").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # sparse
    assert one(folder, image_a="huge.png").reason == "image_too_large"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"choice": "c"}, "choice_invalid"),
        ({"choice": 1}, "wrong_type"),
        ({"caption": ["a fox"]}, "wrong_type"),
        ({"user": True}, "wrong_type"),
        ({"user": None}, "value_missing"),
        ({"image_a": ""}, "value_missing"),
        ({"caption": "\ud800"}, "text_not_utf8"),
        ({"image_b": float("nan")}, "wrong_type"),
    ],
)
def test_wrong_values_cost_their_row_only(folder, changes, reason):
    write(folder, "jsonl", [CHOICES[0], CHOICES[0] | changes, CHOICES[1]])
    first, second, third = read(folder)
    assert isinstance(first, RawRow)
    assert isinstance(third, RawRow)
    assert (second.file, second.row, second.reason) == ("choices.jsonl", 1, reason)


def test_whole_numbers_may_name_users(folder):
    assert one(folder, user=7).user_id == "7"


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"user": 1' + b"0" * 5000 + b"}"]
)
def test_a_line_that_is_no_json_costs_itself_only(folder, line):
    good = json.dumps(CHOICES[0]).encode()
    (folder / "choices.jsonl").write_bytes(good + b"\n" + line + b"\n\n" + good)
    first, second, third = read(folder)
    assert isinstance(first, RawRow)
    assert isinstance(third, RawRow)
    assert second.reason == "row_malformed"


def test_csv_rows_of_a_wrong_length_or_encoding_cost_themselves_only(folder):
    header, good = ",".join(COLUMNS).encode(), b"ann,a fox,images/1.png,4.png,a"
    lines = [
        b"\xef\xbb\xbf" + header,
        good,
        b"ann,a fox",
        b"",
        good + b",more",
        b"\xff,a fox,images/1.png,4.png,b",
        good,
    ]
    (folder / "choices.csv").write_bytes(b"\r\n".join(lines))
    rows = read(folder)
    assert [row.reason if isinstance(row, Refusal) else "" for row in rows] == [
        *("", "row_malformed", "row_malformed", "text_not_utf8", ""),
    ]
    assert [row.row for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("missing", COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_column_is_named(folder, kind, missing):
    write(folder, kind, [{column: value for column, value in CHOICES[0].items() if column != missing}])
    with pytest.raises(InputError, match=f"choices.{kind}, column '{missing}': the column is missing"):
        Folder.open(folder, 10_000)


def test_one_table_is_expected(folder):
    with pytest.raises(InputError, match=r"expected exactly one of choices.csv, .*; found none"):
        Folder.open(folder, 10_000)
    write(folder, "csv", CHOICES)
    write(folder, "jsonl", CHOICES)
    with pytest.raises(InputError, match=r"found choices.csv and choices.jsonl"):
        Folder.open(folder, 10_000)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_reading_goes_on_after_any_batch(folder, kind, monkeypatch):
    monkeypatch.setattr("ppd.preferences.folder.BATCH_ROWS", 2)
    write(folder, kind, CHOICES * 3)
    source = Folder.open(folder, 10_000)
    batches = list(source.batches(START))
    assert len(batches) == 5
    for done, batch in enumerate(batches):
        assert list(source.batches(batch.after)) == batches[done + 1 :]


@given(
    kind=st.sampled_from(["csv", "jsonl", "parquet"]),
    table=st.binary(max_size=200)
    | st.lists(st.lists(st.text(max_size=8), max_size=6), max_size=6).map(
        lambda rows: "\n".join([",".join(COLUMNS), *map(",".join, rows)]).encode("utf-8", "surrogatepass")
    ),
)
def test_any_table_is_either_refused_as_a_whole_or_row_by_row(kind, table):
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / f"choices.{kind}").write_bytes(table)
        try:
            rows = read(Path(root))
        except InputError as error:
            refused_as_a_whole = error.file
        else:
            refused_as_a_whole = None
            assert all(isinstance(row, Refusal) for row in rows)
    assert refused_as_a_whole in {None, Path(root) / f"choices.{kind}"}
