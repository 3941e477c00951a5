"""Reading Pick-a-Pic shards, sound and broken ones."""

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
