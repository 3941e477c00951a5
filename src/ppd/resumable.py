"""Where killed work goes on from: a folder named by all that the result depends on, outside of what DVC replaces."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel


def work_folder(unfinished: Path, described: Iterable[object], inputs: Iterable[Path] = ()) -> Path:
    """The folder inside `unfinished` of the work with this description and these input files; made if need be.

    described: settings and whatever JSON can hold. What other work left in `unfinished` goes. The caller deletes
    `unfinished` when its result is written.
    """
    digest = hashlib.sha256()
    for part in described:
        digest.update((part.model_dump_json() if isinstance(part, BaseModel) else json.dumps(part)).encode())
    for file in inputs:
        digest.update(file.read_bytes())
    return only_folder(unfinished, digest.hexdigest()[:16])


@contextmanager
def resumable(unfinished: Path, described: Iterable[object], inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """The `work_folder` of a block that writes its result before it ends: then `unfinished` goes, and only then."""
    yield work_folder(unfinished, described, inputs)
    shutil.rmtree(unfinished)


def only_folder(unfinished: Path, key: str) -> Path:
    """The folder `key` of `unfinished`, and no other there."""
    own = unfinished / key
    for other in set(unfinished.glob("*")) - {own}:
        shutil.rmtree(other)
    own.mkdir(parents=True, exist_ok=True)
    return own
