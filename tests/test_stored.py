"""Files that check themselves: a damaged one is an error with its name, never other numbers."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ppd.errors import DamagedFile, InputError
from ppd.stored_tables import read_frame, write_table
from ppd.stored_tensors import load_tensors, load_with_metadata, save_tensors

RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame({"user": [f"u{i % 7}" for i in range(999)], "png": [RANDOM.bytes(200) for _ in range(999)]})
TENSORS = {"a": torch.rand(40, 40), "b": torch.rand(9).bfloat16(), "c": torch.tensor(3.0), "d": torch.empty(0, 2)}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_table(FRAME, tmp_path / "t")
    pd.testing.assert_frame_equal(read_frame(tmp_path / "t"), FRAME)
    save_tensors(TENSORS, tmp_path / "s", {"step": "3"})
    tensors, metadata = load_with_metadata(tmp_path / "s")
    assert same(tensors, TENSORS)
    assert metadata == {"step": "3"}


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    """The library writes the keys of its header in another order each time."""
    for number in range(20):
        save_tensors(TENSORS, tmp_path / str(number), {"one": "1", "two": "2", "three": "3"})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_file_by_others_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    save_file({"a": TENSORS["a"]}, tmp_path / "s")
    assert torch.equal(load_tensors(tmp_path / "s")["a"], TENSORS["a"])


def write_tensors(path: Path) -> None:
    save_tensors(TENSORS, path)


def write_frame(path: Path) -> None:
    write_table(FRAME, path)


@pytest.mark.parametrize(("write", "read"), [(write_frame, read_frame), (write_tensors, load_tensors)])
def test_a_file_cut_anywhere_is_damaged(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    write(tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    for length in [0, 1, 8, *(len(content) * part // 20 for part in range(1, 20)), len(content) - 1]:
        (tmp_path / "f").write_bytes(content[:length])
        with pytest.raises(DamagedFile, match=r"/f: damaged"):
            read(tmp_path / "f")


def test_a_flipped_bit_of_a_tensor_file_never_gives_other_tensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f")
    content, found = (tmp_path / "f").read_bytes(), 0
    for place in range(0, len(content), 5):
        (tmp_path / "f").write_bytes(flipped(content, place))
        try:
            assert same(load_tensors(tmp_path / "f"), TENSORS), f"other numbers after a flip of byte {place}"
        except DamagedFile:
            found += 1
    assert found > len(content) / 5 * 0.9


def test_a_flipped_bit_of_a_tables_contents_is_noticed(tmp_path: Path) -> None:
    """Pages carry checksums; the footer, some percent of a small file, does not."""
    write_frame(tmp_path / "f")
    content, chance = (tmp_path / "f").read_bytes(), random.Random(0)
    image = content.index(FRAME.png[500])
    for place in [image, *(chance.randrange(image - 50_000, image + 50_000) for _ in range(50))]:
        (tmp_path / "f").write_bytes(flipped(content, place))
        with pytest.raises(DamagedFile):
            read_frame(tmp_path / "f")


@pytest.mark.parametrize("read", [read_frame, load_tensors])
def test_what_is_not_there_says_what_makes_it(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match="is not there.*dvc repro"):
        read(tmp_path / "nothing")
