"""Reading Pick-a-Pic shards, sound and broken ones."""

import uuid
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppd.errors import InputError
from ppd.preferences.pick_a_pic import PickAPic
from ppd.preferences.rows import Position, RawRow, Refusal
from ppd.preferences.schema import PICK_A_PIC

START = Position(0, 0)
NEEDED = (
    *("ranking_id", "user_id", "caption", "created_at", "image_0_uid", "image_1_uid", "jpg_0", "jpg_1"),
    *("label_0", "label_1", "best_image_uid", "has_label", "are_different"),
)


def read(path):
    return [row for batch in PickAPic.open(path).batches(START) for row in batch.rows]


def with_type(column, kind):
    return PICK_A_PIC.set(PICK_A_PIC.get_field_index(column), pa.field(column, kind))


def test_rows_come_as_they_were_written_across_shards(tmp_path, logs):
    rows = logs.rows(30)
    logs.write(tmp_path / "b.parquet", rows[20:])
    logs.write(tmp_path / "a.parquet", rows[:20], row_group_size=7)
    found = read(tmp_path)
    assert [row.ranking_id for row in found] == [row["ranking_id"] for row in rows]
    assert [(row.file, row.row) for row in found[18:22]] == [
        ("a.parquet", 18),
        ("a.parquet", 19),
        ("b.parquet", 0),
        ("b.parquet", 1),
    ]
    one, other = found[5], rows[5]
    assert (one.user_id, one.caption, one.uid_0, one.uid_1) == ("0", other["caption"], "000005-a", "000005-b")
    assert (one.image_0, one.image_1, one.label_0, one.label_1) == (other["jpg_0"], other["jpg_1"], 0.0, 1.0)
    assert (one.best_uid, one.has_label, one.are_different) == ("000005-b", True, True)
    assert one.created_us == 1675209600_000000 + 5 * 60_000_000


def test_order_of_columns_and_further_ones_do_not_matter(tmp_path, logs):
    plain = logs.write(tmp_path / "plain" / "a.parquet", logs.rows(5))
    table = pq.read_table(plain)
    table = table.select(table.column_names[::-1]).append_column("extra", pa.array(range(5)))
    (tmp_path / "other").mkdir()
    pq.write_table(table.drop_columns(["model_0", "image_0_url"]), tmp_path / "other" / "a.parquet")
    assert read(tmp_path / "other") == read(plain)


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])])
def test_images_may_be_stored_in_other_ways(tmp_path, logs, kind):
    rows = logs.rows(4)
    plain = logs.write(tmp_path / "plain" / "a.parquet", [*rows[:3], rows[3] | {"jpg_0": None}])
    if pa.types.is_struct(kind):
        rows = [row | {"jpg_0": {"bytes": row["jpg_0"], "path": None}} for row in rows]
    stored = logs.write(
        tmp_path / "stored" / "a.parquet", [*rows[:3], rows[3] | {"jpg_0": None}], with_type("jpg_0", kind)
    )
    assert read(stored) == read(plain)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("user_id", pa.string()),
        ("caption", pa.large_string()),
        ("caption", pa.dictionary(pa.int32(), pa.string())),
        ("label_0", pa.float32()),
        ("ranking_id", pa.int32()),
        ("created_at", pa.timestamp("ms", tz="UTC")),
    ],
)
def test_kindred_types_are_taken(tmp_path, logs, column, kind):
    rows = [row | ({"user_id": str(row["user_id"])} if column == "user_id" else {}) for row in logs.rows(4)]
    plain = logs.write(tmp_path / "plain" / "a.parquet", logs.rows(4))
    assert read(logs.write(tmp_path / "kindred" / "a.parquet", rows, with_type(column, kind))) == read(plain)


@pytest.mark.parametrize("column", NEEDED)
def test_a_missing_column_is_named(tmp_path, logs, column):
    table = pa.Table.from_pylist(logs.rows(3), PICK_A_PIC).drop_columns([column])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"a.parquet, column '{column}': the column is missing"):
        PickAPic.open(tmp_path)


@pytest.mark.parametrize("column", NEEDED)
@pytest.mark.parametrize("kind", [pa.date32(), pa.list_(pa.int8())])
def test_a_wrong_type_is_named_with_what_was_expected(tmp_path, column, kind):
    schema = with_type(column, kind)
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"column '{column}': the column holds .*; expected"):
        PickAPic.open(tmp_path)


@given(share=st.floats(0, 0.999))
def test_a_truncated_shard_is_named_before_any_row_is_read(tmp_path_factory, logs, share):
    folder = tmp_path_factory.mktemp("log")
    logs.write(folder / "a.parquet", logs.rows(2))
    whole = (folder / "a.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"b.parquet: not readable as parquet: truncated or damaged"):
        PickAPic.open(folder)


def test_damage_behind_a_good_footer_is_named_with_its_row(tmp_path, logs):
    path = logs.write(tmp_path / "a.parquet", logs.rows(40), row_group_size=10, compression="zstd")
    start = pq.read_metadata(path).row_group(2).column(2).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 60] = b"\xff" * 60
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a.parquet, row 20: the data is damaged"):
        read(tmp_path)


def test_text_that_is_no_utf8_costs_its_row_only(tmp_path, logs):
    table = pa.Table.from_pylist(logs.rows(3), PICK_A_PIC)
    captions = pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(2, "caption", captions), tmp_path / "a.parquet")
    first, second, third = read(tmp_path)
    assert (first.caption, third.caption) == ("one", "three")
    assert second == Refusal("a.parquet", 1, "text_not_utf8", "caption is no valid UTF-8")


def test_no_shards(tmp_path):
    with pytest.raises(InputError, match=r"no \*.parquet files"):
        PickAPic.open(tmp_path)


def test_missing_values_are_passed_on(tmp_path, logs):
    nothing = dict.fromkeys(PICK_A_PIC.names)
    (row,) = read(logs.write(tmp_path / "a.parquet", [nothing]))
    assert row == RawRow("a.parquet", 0, *[None] * 13)


def test_reading_goes_on_after_any_batch(tmp_path, logs, monkeypatch):
    monkeypatch.setattr("ppd.preferences.parquet.BATCH_ROWS", 4)
    logs.write(tmp_path / "a.parquet", logs.rows(22), row_group_size=10)
    logs.write(tmp_path / "b.parquet", logs.rows(9))
    source = PickAPic.open(tmp_path)
    batches = list(source.batches(START))
    assert max(len(batch.rows) for batch in batches) == 4
    for done, batch in enumerate(batches):
        assert list(source.batches(batch.after)) == batches[done + 1 :]


SOME = uuid.UUID("12345678-1234-5678-1234-567812345678")
NAMED = {
    "whole floats with a hole": (pa.float64(), [7.0, None, 7.0], "7"),
    "floats with NaN": (pa.float64(), [7.0, float("nan"), 7.0], "7"),
    "single floats": (pa.float32(), [7.0, None, 7.0], "7"),
    "unsigned beyond the signed": (pa.uint64(), [2**63 + 1, None, 2**63 + 1], str(2**63 + 1)),
    "decimals": (pa.decimal128(12, 2), [Decimal("7.00"), None, Decimal("7.00")], "7"),
    "text of floats": (pa.string(), ["7.0", "", "7"], "7"),
    "text as bytes": (pa.binary(), [b"7", b"", b" 7 "], "7"),
    "text view": (pa.string_view(), ["7", None, "7"], "7"),
    "a dictionary": (pa.dictionary(pa.int8(), pa.string()), ["7", None, "7"], "7"),
    "UUIDs": (pa.uuid(), [SOME.bytes, None, SOME.bytes], str(SOME)),
    "UUIDs as 16 bytes": (pa.binary(16), [SOME.bytes, None, SOME.bytes], str(SOME)),
}


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("column", ["user_id", "image_0_uid", "ranking_id"])
def test_names_of_every_type(tmp_path, logs, kind, column):
    arrow, values, name = NAMED[kind]
    table = pa.Table.from_pylist(logs.rows(3), PICK_A_PIC)
    array = pa.array(values, arrow)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, array), tmp_path / "a.parquet")
    field = {"user_id": "user_id", "image_0_uid": "uid_0", "ranking_id": "ranking_id"}[column]
    first, second, third = (getattr(row, field) for row in read(tmp_path))
    assert second is None
    assert first == third
    if column != "ranking_id":
        assert first == name
    elif name == "7":
        assert first == 7
    else:
        assert 0 <= first < 2**63


def test_a_user_that_is_no_name_costs_its_row(tmp_path, logs):
    rows = [row | {"user_id": user} for row, user in zip(logs.rows(3), [1.0, 1.5, 1e300], strict=True)]
    first, second, third = read(logs.write(tmp_path / "a.parquet", rows, with_type("user_id", pa.float64())))
    assert first.user_id == "1"
    assert (second.reason, second.detail) == ("wrong_type", "user_id is 1.5; expected text or a whole number")
    assert "a float too large" in third.detail
    table = pa.Table.from_pylist(logs.rows(2), PICK_A_PIC)
    names = table.set_column(table.schema.get_field_index("user_id"), "user_id", pa.array([True, False]))
    pq.write_table(names, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'user_id': the column holds bool; expected whole numbers or text"):
        read(tmp_path)


@pytest.mark.parametrize("column", NEEDED)
def test_a_column_that_has_no_value_at_all_costs_rows_not_the_run(tmp_path, logs, column):
    rows = [{**row, column: None} for row in logs.rows(2)]
    whole = read(logs.write(tmp_path / "a.parquet", rows))
    assert read(logs.write(tmp_path / "a.parquet", rows, with_type(column, pa.null()))) == whole


@pytest.mark.parametrize("column", ["has_label", "are_different"])
@pytest.mark.parametrize("kind", [pa.float64(), pa.int8()])
def test_pandas_makes_numbers_of_booleans_with_a_hole(tmp_path, logs, column, kind):
    values = [1, 0, None]
    rows = [row | {column: value} for row, value in zip(logs.rows(3), values, strict=True)]
    found = read(logs.write(tmp_path / "a.parquet", rows, with_type(column, kind)))
    assert [getattr(row, column) for row in found] == [True, False, None]


def test_hidden_files_and_folders_beside_the_shards_are_passed_over(tmp_path, logs):
    logs.write(tmp_path / "split=train" / "a.PARQUET", logs.rows(3))
    logs.write(tmp_path / "b.parquet", logs.rows(5))
    for name in (
        "._b.parquet",
        ".ipynb_checkpoints/b-checkpoint.parquet",
        "__MACOSX/._b.parquet",
        ".cache/x/b.parquet",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(60))
    for name in (".DS_Store", "Thumbs.db", "README.md", "b.parquet.crc"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty.parquet").mkdir()
    assert sorted({row.file for row in read(tmp_path)}) == ["b.parquet", "split=train/a.PARQUET"]
    hidden = tmp_path / ".work"
    logs.write(hidden / "a.parquet", logs.rows(2))
    assert len(read(hidden)) == 2, "only what is below the folder that was named counts as hidden"
