"""Writing files: never half of one, readable for whom the umask lets, and a sentence where the disk takes no more."""

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ppd.errors import InputError
from ppd.files import atomic_path, clear_leftovers, unwritable
from ppd.stored_tables import write_table


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_a_library_makes_private_is_as_readable_as_any_other_file(tmp_path: Path, umask: None) -> None:
    with atomic_path(tmp_path / "folder") as fresh:
        fresh.mkdir()
        save_file({"a": torch.ones(2)}, fresh / "weights.safetensors")
        (fresh / "config.json").write_text("{}")
    with atomic_path(tmp_path / "alone.safetensors") as fresh:
        save_file({"a": torch.ones(2)}, fresh)
    files = ("folder/weights.safetensors", "folder/config.json", "alone.safetensors")
    assert {mode(tmp_path / name) for name in files} == {0o640}


KILLED = """
import os, signal, sys
from pathlib import Path
from ppd.files import atomic_path
with atomic_path(Path(sys.argv[1])) as fresh:
    {body}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(target: Path, body: str = "fresh.write_text('half')") -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(body=body), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_goes_when_the_file_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    killed_while_writing(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2, "the kill left nothing to see"
    with atomic_path(tmp_path / "a.txt") as fresh:
        fresh.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_that_was_moved_aside_before_the_kill_comes_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result").write_text("old")
    killed_while_writing(tmp_path / "out", "fresh.mkdir(); Path(sys.argv[1]).rename(fresh.parent / 'previous')")
    assert not (tmp_path / "out").exists()
    clear_leftovers(tmp_path / "out")
    assert (tmp_path / "out" / "result").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_writers_of_one_file_at_once_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    target, failed = tmp_path / "a.txt", []

    def write(text: str) -> None:
        for _ in range(50):
            try:
                with atomic_path(target) as fresh:
                    fresh.write_text(text * 100)
            except Exception as error:  # noqa: BLE001 (whatever it is)
                failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert target.read_text() in [letter * 100 for letter in "abcd"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("how", ["text", "table", "tensors", "copy"])
def test_a_full_disk_is_a_sentence_with_the_file_and_what_was_there_stays(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    target = tmp_path / "result"
    target.write_text("old")
    large = tmp_path_factory.mktemp("large")
    (large / "file").write_bytes(bytes(5000))

    def write() -> None:
        with room_for(1024), atomic_path(target) as fresh:
            if how == "text":
                fresh.write_text("x" * 5000)
            elif how == "table":
                write_table(pd.DataFrame({"a": torch.rand(5000).numpy()}), fresh)
            elif how == "tensors":
                save_file({"a": torch.rand(5000)}, fresh)
            else:
                shutil.copytree(large, fresh)

    with pytest.raises(InputError, match="result: .*nothing was changed"):
        write()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_what_is_no_fault_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:

    def write() -> None:
        with atomic_path(tmp_path / "a") as fresh:
            fresh.write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []
    assert unwritable(FileNotFoundError(errno.ENOENT, "none")) is None


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "only be read"), (errno.EDQUOT, "quota")]
)
def test_each_refusal_of_the_disk_has_its_words(number: int, words: str) -> None:
    """As Python raises it, and as libraries in Rust put it into their own errors."""
    assert words in str(unwritable(OSError(number, os.strerror(number))))
    assert words in str(unwritable(RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")))


def test_the_command_says_it_and_exits_with_2(tmp_path: Path) -> None:
    """Even where a stage writes without the helper: into a device that is always full."""
    script = "from ppd import cli; cli.app = lambda: open('/dev/full', 'w').write('x' * 9999); cli.main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "no space left on the disk" in done.stderr
