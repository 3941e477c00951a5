"""Where a killed experiment goes on from, and only that very experiment."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel


def work_for(folder: Path, settings: Iterable[BaseModel], inputs: Iterable[Path]) -> Path:
    """A folder inside `folder` named by these settings and the content of these files; what others left there goes.

    The caller deletes `folder` when its result is written.
    """
    digest = hashlib.sha256()
    for part in settings:
        digest.update(part.model_dump_json().encode())
    for file in inputs:
        digest.update(file.read_bytes())
    own = folder / digest.hexdigest()[:16]
    for other in set(folder.glob("*")) - {own}:
        shutil.rmtree(other)
    own.mkdir(parents=True, exist_ok=True)
    return own
