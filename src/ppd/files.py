"""Writing files so that a reader never sees half of one."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def content_name(file: str | Path) -> str:
    """A short name for what is in a file: other content, another name."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


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


def write_json(file: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, the whole file or nothing of it."""
    with atomic_path(file) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n")


def read_json(file: str | Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(Path(file).read_text())
