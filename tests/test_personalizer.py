from pathlib import Path

import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.personalizer import read_pairs
from ppd.settings import ChoiceWords, ColumnSettings, PreferenceSettings


def person(folder: Path, *rows: str) -> Path:
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(folder / name)
    (folder / "choices.csv").write_text("\n".join(["user,caption,image_a,image_b,choice", *rows]) + "\n")
    return folder


def test_the_preferred_image_comes_first_and_ties_say_nothing(tmp_path: Path) -> None:
    rows = ("ann,a fox,red.png,blue.png,b", "ann,an owl,red.png,blue.png,a", "ann,a cat,red.png,blue.png,tie")
    first, second = read_pairs(person(tmp_path, *rows))
    assert first.preferred == (tmp_path / "blue.png").read_bytes() == second.rejected
    assert (first.caption, second.caption) == ("a fox", "an owl")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["ann,a fox,red.png,blue.png,a", "ben,a fox,red.png,blue.png,a"], "2 users"),
        (["ann,a fox,red.png,gone.png,a"], "row 0.*image_missing.*gone.png"),
        (["ann,a fox,red.png,blue.png,tie"], "no choice"),
        (["ann,a fox,red.png,blue.png,yes"], "expected a, b or tie"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pairs(person(tmp_path, *rows))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("data", [EPS, b"GIF89a" + bytes(20), b"<html>404</html>", b""])
def test_what_is_no_picture_stops_at_the_door(tmp_path: Path, data: bytes) -> None:
    folder = person(tmp_path, "ann,a fox,red.png,blue.png,a")
    (folder / "blue.png").write_bytes(data)
    with pytest.raises(InputError, match=r"choices.csv, row 0: image_(undecodable|missing): no (JPEG|bytes)"):
        read_pairs(folder)


def test_the_limit_of_pixels_and_the_names_of_columns_are_those_of_the_settings(tmp_path: Path) -> None:
    folder = person(tmp_path, "ann,a fox,red.png,blue.png,a")
    with pytest.raises(InputError, match="image_too_large: 8 x 8 pixels; at most 63 in all"):
        read_pairs(folder, PreferenceSettings(max_image_pixels=63))
    (folder / "choices.csv").write_text("who;prompt;left;right;label\nann;a fox;red.png;blue.png;2\n")
    names = {"user": "who", "caption": "prompt", "image_a": "left", "image_b": "right", "choice": "label"}
    columns = ColumnSettings(**names, choices=ChoiceWords(a=(1,), b=(2,)))
    (pair,) = read_pairs(folder, PreferenceSettings(columns=columns))
    assert pair.preferred == (folder / "blue.png").read_bytes()
