"""Writing files so that a reader never sees half of one, and that a full disk is a sentence and no traceback."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppd.errors import InputError

_UNWRITABLE = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this disk or the limits of this process allow",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
}


def content_name(file: str | Path) -> str:
    """A short name for what is in a file: other content, another name."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to; it replaces `target` only when the block succeeds.

    After an exception `target` is as it was. A folder is swapped by two renames: the old one is moved aside first. What
    a killed process left beside `target` goes first, so that nobody takes it for an output. Raises InputError where
    the disk takes no more. Everyone may read the result whom the process' umask lets.
    """
    target = Path(target)
    with writing(target):
        clear_leftovers(target)
        with _scratch_folder(target) as scratch:
            fresh = scratch / target.name
            yield fresh
            _open_to_readers(fresh, scratch)
            if fresh.is_dir() and target.exists():
                target.rename(scratch / "previous")
            fresh.replace(target)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Makes an InputError with the name of `target` of what says that the disk takes no more: full or read-only."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if (problem := unwritable(error)) is None:
            raise
        raise InputError(
            f"{problem}; nothing was changed", file=target, fix="Make room or give permission, then run it again"
        ) from error


def clear_leftovers(target: Path) -> None:
    """Remove what killed writers of `target` left beside it; a folder that one had just moved aside comes back.

    A writer holds a lock on its scratch folder for as long as it lives, so another one's is left alone.
    """
    for scratch in sorted(target.parent.glob(f".{target.name}.????????")):
        if (handle := _lock(scratch, wait=False)) is None:
            continue
        if (scratch / "previous").exists() and not target.exists():
            (scratch / "previous").rename(target)
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(handle)


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:  # again, if another writer took it for a leftover before it was locked
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        if (handle := _lock(scratch, wait=True)) is not None:
            break
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(handle)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """A handle that holds the folder's lock until it is closed or the process dies; None if somebody else has it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        if wait:
            raise
        return None
    if folder.exists():
        return handle
    os.close(handle)
    return None


def _open_to_readers(fresh: Path, scratch: Path) -> None:
    """Give files that their library made private (safetensors does) the mode of any other file of this process."""
    private = [file for file in (fresh, *fresh.rglob("*")) if file.is_file() and not file.stat().st_mode & 0o077]
    if private:
        usual = scratch / "usual"
        usual.touch()
        for file in private:
            file.chmod(usual.stat().st_mode & 0o777)


def unwritable(error: Exception) -> str | None:
    """What the disk refused, where that is what an exception says.

    Libraries in Rust, and the copying of a folder, only have it in their words.
    """
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return _UNWRITABLE[error.errno]
    words = "[Errno {}]" if isinstance(error, shutil.Error) else "os error {})"
    found = [problem for number, problem in _UNWRITABLE.items() if words.format(number) in str(error)]
    return found[0] if found else None


def write_json(file: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, the whole file or nothing of it."""
    with atomic_path(file) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n")


def read_json(file: str | Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(Path(file).read_text())
