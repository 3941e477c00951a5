"""Logs as people really have them, from the folder to the tables: each row is taken, or its line is named."""

import csv
import io
import json
import random
import struct
import zlib

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.preferences.ingest import ingest
from ppd.preferences.schema import PICK_A_PIC
from ppd.preferences.store import Preferences
from ppd.settings import PreferenceSettings

COLUMNS = ["user", "caption", "image_a", "image_b", "choice"]
FOLDER = PreferenceSettings(source_format="folder")
N = 120


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def noise(number: int) -> Image.Image:
    return Image.frombytes("RGB", (16, 16), random.Random(number).randbytes(768))


def choices() -> list[dict[str, str]]:
    """12 users, 10 choices each."""
    return [
        {
            "user": f"u{n // 10:02d}",
            "caption": f"a sticker of thing {n % 20}",
            "image_a": f"img/{n:03d}-a.png",
            "image_b": f"img/{n:03d}-b.png",
            "choice": "ab"[n % 2],
        }
        for n in range(N)
    ]


def put_images(root, make=lambda number, side: encoded(noise(2 * number + side)), rows=None):
    for number, row in enumerate(rows or choices()):
        for side, column in enumerate(("image_a", "image_b")):
            path = root / row[column]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make(number, side))


def put_csv(root, rows, encoding="utf-8", **how):
    root.mkdir(parents=True, exist_ok=True)
    with (root / "choices.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, COLUMNS, **how)
        writer.writeheader()
        writer.writerows(rows)


def taken(root, settings=FOLDER) -> dict:
    return ingest(
        settings, root / "choices" if (root / "choices").exists() else root, root.parent / "out", for_training=True
    )


def test_images_that_dvc_linked_into_its_cache(tmp_path):
    root = tmp_path / "data/choices"
    put_csv(root, choices())
    put_images(tmp_path / ".dvc/cache/files/md5/aa")
    for row in choices():
        for column in ("image_a", "image_b"):
            (root / row[column]).parent.mkdir(exist_ok=True)
            (root / row[column]).symlink_to(tmp_path / ".dvc/cache/files/md5/aa" / row[column])
    summary = taken(root)
    assert (summary["n_rows"], summary["n_pairs"], summary["refused"]) == (N, N, {})


@pytest.mark.parametrize("lines", [[111], [101, 111], [120], [30, 31, 32]])
def test_a_stray_quotation_mark(tmp_path, lines):
    put_images(tmp_path)
    text = [",".join(COLUMNS), *(",".join(row.values()) for row in choices())]
    for line in lines:
        text[line] = text[line].replace("a sticker", '"a sticker')
    (tmp_path / "choices.csv").write_text("\r\n".join(text) + "\r\n")
    summary = taken(tmp_path)
    assert summary["n_rows"] == N
    assert summary["n_pairs"] + summary["dropped"]["few_pairs"] == N - len(lines)
    assert summary["refused"] == {"row_malformed": len(lines)}
    refused = pd.read_parquet(tmp_path.parent / "out" / "refused.parquet")
    assert [detail.split(" has")[0] for detail in refused.detail] == [f"line {line + 1}" for line in lines]
    kept = Preferences.open(tmp_path.parent / "out").pairs.set_index("pair_id")
    for number, row in enumerate(choices()):
        if number in kept.index:
            assert number + 1 not in lines
            assert tuple(kept.loc[number, ["user_id", "caption"]]) == (row["user"], row["caption"])


def sticker(number: int, side: int) -> bytes:
    rgba = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    rgba.paste((number, 100 + side, 77, 255), (8, 8, 24, 24))
    kinds = [rgba, rgba.convert("LA"), rgba.quantize(8), rgba]
    return encoded(
        kinds[number % 4], *(["WEBP"] if number % 4 == 3 else []), **({"lossless": True} if number % 4 == 3 else {})
    )


def test_transparent_stickers_lie_on_white(tmp_path):
    put_images(tmp_path, sticker)
    put_csv(tmp_path, choices())
    taken(tmp_path, FOLDER.model_copy(update={"max_refused_share": 0.5}))
    known = Preferences.open(tmp_path.parent / "out")
    corners = {image.getpixel((0, 0)) for image in known.images(known.pairs.chosen_uid.head(40))}
    assert corners == {(255, 255, 255)}


def test_photographs_stand_upright_and_so_do_their_sizes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    put_images(tmp_path, lambda n, side: encoded(noise(2 * n + side).resize((32, 16)), "JPEG", exif=exif))
    put_csv(tmp_path, choices())
    taken(tmp_path)
    known = Preferences.open(tmp_path.parent / "out")
    assert {image.size for image in known.images(known.pairs.chosen_uid.head(5))} == {(16, 32)}
    sizes = pd.read_parquet(tmp_path.parent / "out" / "images" / "part-00000.parquet", columns=["width", "height"])
    assert {*sizes.width} == {16}
    assert {*sizes.height} == {32}


def test_pictures_with_a_workflow_or_a_large_profile(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def make(number, side):
        plain = encoded(noise(2 * number + side))
        large = zlib.compress(bytes(2 << 20))
        extra = chunk(b"iCCP", b"p\0\0" + large) if number % 2 else chunk(b"iTXt", b"workflow\0\1\0\0\0" + large)
        return plain[:33] + extra + plain[33:]

    put_images(tmp_path, make)
    put_csv(tmp_path, choices())
    assert taken(tmp_path)["refused"] == {}


def test_windows_separators(tmp_path):
    put_images(tmp_path)
    put_csv(
        tmp_path, [row | {side: row[side].replace("/", "\\") for side in ("image_a", "image_b")} for row in choices()]
    )
    assert taken(tmp_path)["n_pairs"] == N


@pytest.mark.parametrize(
    "how",
    [{"encoding": "utf-8-sig"}, {"delimiter": ";"}, {"encoding": "utf-16", "delimiter": "\t"}, {"delimiter": "|"}],
)
def test_excel(tmp_path, how):
    put_images(tmp_path)
    put_csv(tmp_path, choices(), **how)
    with (tmp_path / "choices.csv").open(
        "a", newline="", encoding=how.get("encoding", "utf-8").replace("-sig", "")
    ) as file:
        if how.get("encoding") != "utf-16":  # a second byte order mark would be a character
            file.write(how.get("delimiter", ",") * 4 + "\r\n" + "\r\n" * 3)
    summary = taken(tmp_path)
    assert (summary["n_rows"], summary["n_pairs"], summary["refused"]) == (N, N, {})


def test_a_file_in_another_code_page_says_so(tmp_path):
    put_images(tmp_path)
    put_csv(tmp_path, [row | {"caption": "ein Füchslein"} for row in choices()], encoding="cp1252")
    with pytest.raises(InputError, match="64 x text_not_utf8.*byte 0xfc; is the file in Windows-1252") as error:
        taken(tmp_path)
    assert "caption is no valid UTF-8" in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_users_that_differ_only_as_floats(tmp_path, kind):
    put_images(tmp_path)
    rows = [row | {"user": float(n // 10 + 1)} for n, row in enumerate(choices())]
    if kind == "csv":
        put_csv(tmp_path, [row | {"user": int(row["user"]) if n % 2 else row["user"]} for n, row in enumerate(rows)])
    elif kind == "jsonl":
        (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "choices.parquet")
    assert taken(tmp_path)["n_pairs"] == N
    assert set(Preferences.open(tmp_path.parent / "out").users.user_id) == {str(n) for n in range(1, 13)}


def test_float_users_with_a_hole_in_pick_a_pic(tmp_path, logs):
    rows = [row | {"user_id": float(1000 + n // 10) if n != 3 else None} for n, row in enumerate(logs.rows(80))]
    schema = PICK_A_PIC.set(PICK_A_PIC.get_field_index("user_id"), pa.field("user_id", pa.float64()))
    logs.write(tmp_path / "log/train.parquet", rows, schema)
    summary = ingest(PreferenceSettings(), tmp_path / "log", tmp_path / "out", for_training=True)
    assert (summary["n_pairs"], summary["refused"]) == (79, {"value_missing": 1})
    assert set(Preferences.open(tmp_path / "out").users.user_id) == {str(n) for n in range(1000, 1008)}


def test_what_other_writers_make_of_the_same_columns(tmp_path, logs):
    """Compressions, int96 times, zones, structs, dictionaries: one table in the end, its times in UTC."""

    def table(part: int, **changes) -> pa.Table:
        found = pa.Table.from_pylist([logs.row(80 * part + n) for n in range(80)], PICK_A_PIC)
        for name, change in changes.items():
            array = found[name].combine_chunks()
            found = found.set_column(found.schema.get_field_index(name), name, change(array))
        return found

    def image(array: pa.Array) -> pa.Array:
        return pa.StructArray.from_arrays([array, pa.nulls(len(array), pa.string())], names=["bytes", "path"])

    def kind(arrow: pa.DataType):
        return lambda array: array.cast(arrow)

    root = tmp_path / "log"
    (root / "split=train").mkdir(parents=True)
    pq.write_table(table(0, jpg_0=image, jpg_1=image), root / "a.parquet", compression="zstd")
    large = {"jpg_0": kind(pa.large_binary()), "caption": kind(pa.large_string())}
    pq.write_table(table(1, **large), root / "b.parquet", compression="snappy", row_group_size=7)
    coded = {name: lambda array: array.dictionary_encode() for name in ("caption", "best_image_uid", "user_id")}
    pq.write_table(table(2, **coded), root / "c.parquet", compression="gzip")
    zoned = {"created_at": kind(pa.timestamp("ns", tz="UTC")), "user_id": kind(pa.uint64())}
    pq.write_table(table(3, **zoned), root / "d.parquet", compression="none")
    pq.write_table(table(4), root / "split=train/e.parquet", use_deprecated_int96_timestamps=True)
    summary = ingest(PreferenceSettings(), root, tmp_path / "out", for_training=True)
    assert (summary["n_pairs"] + summary["dropped"]["few_pairs"], summary["refused"]) == (400, {})
    pairs = Preferences.open(tmp_path / "out").pairs
    told = {row["ranking_id"]: row["created_at"] for row in (logs.row(n) for n in range(400))}
    assert [time.to_pydatetime() for time in pairs.created_at] == [told[number] for number in pairs.pair_id]
