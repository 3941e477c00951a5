"""Writing files so that a reader never sees half of one."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to; it replaces `target` only when the block succeeds.

    After an exception `target` is as it was. A folder is swapped by two renames: the old one is moved aside first.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = scratch / target.name
        yield fresh
        if fresh.is_dir() and target.exists():
            target.rename(scratch / "previous")
        fresh.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
