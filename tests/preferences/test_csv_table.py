"""Every line of a CSV is accounted for, whatever wrote it."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ppd.errors import InputError
from ppd.preferences.ids import BadValue
from ppd.preferences.tables import count, records
from ppd.settings import ColumnSettings

COLUMNS = ("user", "caption", "image_a", "image_b", "choice")
NAMES = ColumnSettings()


def row(number: int, caption: str | None = None) -> list[str]:
    caption = caption or f"a sticker of thing {number}"
    return [f"u{number // 10}", caption, f"img/{number}-a.png", f"img/{number}-b.png", "ab"[number % 2]]


def read(folder: Path, text: str | bytes, name: str = "choices.csv") -> list:
    table = folder / name
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = list(records(table, NAMES))
    assert count(table, NAMES) == len(rows)
    return [each if isinstance(each, BadValue) else list(each.values()) for each in rows]


def lines_of(n: int = 20, order=COLUMNS) -> list[str]:
    places = [COLUMNS.index(column) for column in order]
    return [",".join(order), *(",".join(row(i)[at] for at in places) for i in range(n))]


def written(rows: list[list[str]], **how) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **how).writerows([COLUMNS, *rows])
    return buffer.getvalue()


ORDERS = [
    COLUMNS,
    ("caption", "user", "image_a", "image_b", "choice"),
    ("user", "image_a", "image_b", "choice", "caption"),
    ("choice", "caption", "image_b", "image_a", "user"),
]
STRAY = {
    "at the start": lambda caption: '"' + caption,
    "at the end": lambda caption: caption + '"',
    "in the middle": lambda caption: caption.replace("sticker", 'sti"cker'),
    "around a word at the start": lambda caption: caption.replace("a sticker", '"a" sticker'),
    "around a word": lambda caption: caption.replace("sticker", '"sticker"'),
    "three at the start": lambda caption: '"""' + caption,
    "with a comma": lambda caption: '"' + caption.replace(" of", ", of"),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", STRAY)
@pytest.mark.parametrize("second", [None, *STRAY])
def test_a_stray_quotation_mark_costs_its_own_line_and_no_other(tmp_path, order, end, first, second):
    lines, at = lines_of(order=order), order.index("caption")
    touched = {5: first} | ({9: second} if second else {})
    for number, where in touched.items():
        fields = lines[number].split(",")
        fields[at] = STRAY[where](fields[at])
        lines[number] = ",".join(fields)
    rows = read(tmp_path, end.join(lines) + end)
    assert len(rows) == 20
    for number, found in enumerate(rows, start=1):
        if number not in touched:
            assert found == row(number - 1)
        elif isinstance(found, BadValue):
            reason, detail = found.args
            assert reason == "row_malformed"
            assert detail.startswith(f"line {number + 1} ")
        else:  # a mark within a field that does not begin with one is a letter like any other
            assert found[0] == row(number - 1)[0]
            assert found[2:] == row(number - 1)[2:]


def test_a_stray_quotation_mark_on_the_last_line_and_in_the_header(tmp_path):
    lines = lines_of(4)
    rows = read(tmp_path, "\n".join([*lines[:-1], lines[-1].replace("a sticker", '"a sticker')]))
    assert [isinstance(each, BadValue) for each in rows] == [False, False, False, True]
    assert "line 5 has a quotation mark that nothing closes" in rows[3].args[1]
    with pytest.raises(InputError, match="the header cannot be read"):
        read(tmp_path, "\n".join(['user,"caption,image_a,image_b,choice', *lines[1:]]))


LEGAL = [
    "one line\nanother line",
    'ein "Füchslein", 🦊\r\nzwei',
    "masterpiece, best quality, 1girl, solo, x\nlong hair, smile, y, z, w\n\nwatercolor, a, b, c, d",
    "\n\n",
    '"',
    '""\n"',
    ",,,,\n,,,,",
    "a\tb;c|d",
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_captions_of_several_lines_are_one_row(tmp_path, order, quoting):
    rows = [row(i, caption) for i, caption in enumerate(LEGAL)]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, order, quoting=quoting)
    writer.writeheader()
    writer.writerows(dict(zip(COLUMNS, each, strict=True)) for each in rows)
    assert read(tmp_path, buffer.getvalue()) == rows


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@hypothesis_settings(max_examples=200)
@given(
    captions=st.lists(texts | st.sampled_from(LEGAL), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_writer_wrote_is_read_back(tmp_path_factory, captions, separator, encoding, end):
    rows = [row(i, caption) for i, caption in enumerate(captions)]
    text = written(rows, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    assert read(tmp_path_factory.getbasetemp(), text.encode(encoding)) == rows


@hypothesis_settings(max_examples=300)
@given(st.data())
def test_no_two_rows_are_ever_one_wherever_marks_are_put(tmp_path_factory, data):
    """Marks anywhere in 12 lines: every accepted row is one of the 12 in all but its caption and marks."""
    lines = lines_of(12)
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(1, 12))
        at = data.draw(st.integers(0, len(lines[number])))
        lines[number] = lines[number][:at] + '"' + lines[number][at:]
    rows = read(tmp_path_factory.getbasetemp(), "\n".join(lines))
    assert len(rows) == 12
    for number, found in enumerate(rows):
        if not isinstance(found, BadValue):
            assert [value.replace('"', "") for value in found] == row(number)


def test_excel(tmp_path):
    rows = [row(i) for i in range(3)]
    for text in (
        "sep=;\r\n" + written(rows, delimiter=";"),
        written(rows) + ",,,,\r\n" * 30,
        ",,,,\r\n"
        + written(rows).replace("u0,a sticker of thing 1", ',,,,\r\n\r\n"","","","",""\r\nu0,a sticker of thing 1'),
        written(rows).replace("user,caption,image_a", " User ,CAPTION,Image A"),
        written(rows).replace(",", ", "),
        written(rows) + "\0" * 100,
        written(rows).replace(",a\r\n", ",a,,\r\n"),
        written(rows).replace("\r\n", ",,\r\n"),
    ):
        assert read(tmp_path, text) == rows


def test_fields_that_are_missing_or_too_many(tmp_path):
    lines = lines_of(3)
    lines[2] += ",more"
    lines[3] = "u1,a fox"
    assert [each.args[1] for each in read(tmp_path, "\n".join(lines)) if isinstance(each, BadValue)] == [
        "line 3 has 6 fields; the header has 5",
        "line 4 has 2 fields; the header has 5",
    ]


def test_other_encodings_are_named(tmp_path):
    text = written([row(0, "ein Füchslein"), row(1)])
    table = tmp_path / "choices.csv"
    table.write_bytes(text.encode("cp1252"))
    first, second = records(table, NAMES)
    assert first["caption"] == "ein F\udcfcchslein"  # refused where the caption is read
    assert second["caption"] == "a sticker of thing 1"
    with pytest.raises(InputError, match="looks like UTF-16 without a byte order mark"):
        read(tmp_path, text.encode("utf-16-le"))
    with pytest.raises(InputError, match="the text cannot be decoded"):
        read(tmp_path, text.encode("utf-16")[:-1])


def test_a_missing_column_says_what_is_there_and_how_it_is_separated(tmp_path):
    with pytest.raises(
        InputError, match=r"column 'caption': the column is missing.*found are 'user', 'prompt'"
    ) as error:
        read(tmp_path, "user;prompt;image_a;image_b;choice\nu;p;a;b;a\n")
    assert "separated by semicolons" in str(error.value)
    assert "preferences.columns" in str(error.value)
    with pytest.raises(InputError, match="column 'user': the column is there 2 times"):
        read(tmp_path, "user,user,caption,image_a,image_b,choice\n")
    with pytest.raises(InputError, match="the column is missing"):
        read(tmp_path, "")


def test_a_field_without_end(tmp_path):
    lines = lines_of(3)
    lines[2] = lines[2].replace("a sticker", "x" * 200_000)
    first, second, third = read(tmp_path, "\n".join(lines))
    assert (first, third) == (row(0), row(2))
    assert "line 3" in second.args[1]
    assert "limit" in second.args[1]


def jsonl(*rows: list[str]) -> str:
    import json

    return "".join(json.dumps(dict(zip(COLUMNS, each, strict=True)), ensure_ascii=False) + "\n" for each in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_json_lines_of_any_dialect(tmp_path, encoding, end):
    rows = [row(i, caption) for i, caption in enumerate(LEGAL)]
    text = jsonl(*rows).replace("\n", end)
    assert read(tmp_path, text.encode(encoding), "choices.jsonl") == rows


def test_json_lines_that_are_none(tmp_path):
    good = jsonl(row(0)).strip()
    rows = read(tmp_path, f"{good}\n{good},\n[1]\n{{\n{good}{good}\n{good}", "choices.jsonl")
    details = [each.args[1] for each in rows if isinstance(each, BadValue)]
    assert len(rows) == 6
    assert details[0].startswith("line 2 is no JSON: a comma behind it; ")
    assert [detail[:6] for detail in details] == ["line 2", "line 3", "line 4", "line 5"]
    with pytest.raises(InputError, match="a JSON array; expected JSON Lines"):
        read(tmp_path, f"[\n{good},\n{good}\n]", "choices.jsonl")
    names = good.replace('"user"', '"User "').replace('"image_a"', '"Image A"')
    assert read(tmp_path, names, "choices.jsonl") == [row(0)]
