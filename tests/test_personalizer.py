from pathlib import Path

import pytest
from PIL import Image

from ppd.errors import InputError
from ppd.personalizer import read_pairs


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
