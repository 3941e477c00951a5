"""Where killed work goes on from: a folder named by all that the result depends on, outside of what DVC replaces."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from ppd.parts import this_part

_PORTION = 1 << 20


def work_folder(unfinished: Path, described: Iterable[object], inputs: Iterable[Path] = ()) -> Path:
    """The folder inside `unfinished` of the work with this description and these input files; made if need be.

    described: settings and whatever JSON can hold. What other work left in `unfinished` goes, which is said. The caller
    deletes `unfinished` when its result is written. Of several processes that share the work every one calls it, and
    the first one deletes.
    """
    digest = hashlib.sha256()
    for part in described:
        digest.update((part.model_dump_json() if isinstance(part, BaseModel) else json.dumps(part)).encode())
    for file in inputs:
        with file.open("rb") as content:
            while portion := content.read(_PORTION):
                digest.update(portion)
    key, part = digest.hexdigest()[:16], this_part()
    if part.is_first:
        only_folder(unfinished, key)
    part.wait_for_all()
    return unfinished / key


@contextmanager
def resumable(unfinished: Path, described: Iterable[object], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """The `work_folder` of a block that writes its result before it ends: then `unfinished` goes, and only then."""
    yield work_folder(unfinished, described, inputs)
    shutil.rmtree(unfinished)


def only_folder(unfinished: Path, key: str, *, keep: int = 0) -> Path:
    """The folder `key` of `unfinished`; of the others there the `keep` newest stay. What goes is said on stderr."""
    own = unfinished / key
    others = sorted((other for other in unfinished.glob("*") if other != own), key=_last_change, reverse=True)
    for other in others[keep:]:
        Console(stderr=True).print(
            f"{other}: what other work (other settings or inputs) left unfinished is thrown away", soft_wrap=True
        )
        shutil.rmtree(other)
    own.mkdir(parents=True, exist_ok=True)
    return own


def _last_change(folder: Path) -> float:
    return max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
