"""DVC's own files, which it writes in place: read while it writes them, and made whole where a kill has torn them.

    python -m orchestration.dvc_lock    # in a shell, where DVC says that dvc.lock or its rwlock cannot be read

A kill within the write leaves them empty or cut, and DVC then refuses every command. No work is lost with dvc.lock: git
has the one of the last commit, and of what ran since DVC's cache of runs has the results. Stages whose outputs persist
(`encode`, `embed`) are not in that cache; they run again and make nothing that is there.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError, validate
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ppd.files import atomic_path

T = TypeVar("T")

QUIET_S, PATIENCE_S = 0.3, 5.0
"""A dvc.lock that nobody has written to for so long is whole; so long it is waited for."""
BROKEN = (YAMLError, YAMLSyntaxError, YAMLValidationError)
"""What reading half a lock raises."""
CONFLICT = "<<<<<<< "
"""Git's, within a merge: not torn, but for its owner to resolve."""


def undisturbed(root: Path, read: Callable[[], T]) -> T:
    """What `read` makes of dvc.yaml and dvc.lock while DVC may be writing the latter, which it does piece by piece.

    Half a lock is no YAML, or, worse, YAML without the stages of the other half. DVC's own lock would tell, but it is
    held for minutes where much is hashed. A lock that stays broken is mended.
    """
    deadline, mended = time.monotonic() + PATIENCE_S, False
    while True:
        before = _written(root)
        late = time.monotonic() > deadline
        try:
            found = read()
        except BROKEN:
            if mended:
                raise
            if late:
                mended = True
                with suppress(LockError):
                    for sentence in mend(root):
                        logging.getLogger(__name__).warning(sentence)
        else:
            if late or (before == _written(root) and time.time_ns() - max(before, default=0) > QUIET_S * 1e9):
                return found
        time.sleep(0.1)


def load_lock(file: Path) -> dict[str, Any]:
    """What one dvc.lock holds. Raises one of `BROKEN` where it is not whole."""
    text = file.read_text(encoding="utf-8")
    lock: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    validate(lock, COMPILED_LOCKFILE_SCHEMA, text=text, path=str(file))
    return lock


def lock_files(root: Path) -> list[Path]:
    """Of each pipeline, there or not: in the root, or in a folder of it with stages that run in the root."""
    return [root / "dvc.lock", *sorted(root.glob("*/dvc.lock"))]


def mend(root: Path) -> list[str]:
    """Make whole what a kill has torn, and say what was done; nothing where nothing is torn.

    What was torn is kept in .dvc/tmp. Raises LockError while another DVC may be writing, or still runs and holds paths
    that the torn list of them no longer names.
    """
    with Repo(str(root)) as repo, repo.lock:
        kept = Path(repo.tmp_dir)
        said = [_as_committed(file, kept) for file in lock_files(root) if _is_torn(file)]
        paths_in_use = kept / "rwlock"
        if _is_no_json(paths_in_use):
            if others := list(_others(root)):
                raise LockError(f"DVC's list of paths in use was torn by a kill, and {', '.join(others)} may hold some")
            paths_in_use.replace(kept / "rwlock.torn")
            said.append("DVC's list of paths in use was torn by a kill: it is empty now, since no other DVC runs here.")
    return said


def _written(root: Path) -> list[int]:
    """When each dvc.lock was last written to, in ns."""
    return [path.stat().st_mtime_ns for path in lock_files(root) if path.exists()]


def _is_torn(file: Path) -> bool:
    try:
        load_lock(file)
    except FileNotFoundError:
        return False
    except BROKEN:
        return CONFLICT not in file.read_text(encoding="utf-8")
    return False


def _is_no_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _as_committed(file: Path, kept: Path) -> str:
    """Put a torn dvc.lock back as the last commit has it, or take it away where none has it."""
    torn = kept / f"{file.parent.name}-dvc.lock.torn"
    torn.write_bytes(file.read_bytes())
    command = ["git", "show", "HEAD:./dvc.lock"]
    committed = subprocess.run(command, cwd=file.parent, capture_output=True, check=False)
    if committed.returncode == 0:
        with atomic_path(file) as fresh:
            fresh.write_bytes(committed.stdout)
        became = "it is as in the last commit"
    else:
        file.unlink()
        became = "no commit has it, so it begins anew"
    return f"{file} was torn by a kill: {became} (the torn one: {torn}). What ran since is looked up, not made again."


def _others(root: Path) -> Iterator[str]:
    """DVC's processes that work in this repository."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            command = process.cmdline()
            program = {Path(word).name for word in command[:3]}
            if "dvc" in program and "daemon" not in command and Path(process.cwd()) == root.resolve():
                yield f"`{' '.join(command[1:])}` (process {process.pid})"


def main() -> None:
    try:
        said = mend(Path.cwd())
    except LockError as error:
        sys.exit(str(error))
    print(os.linesep.join(said) or "dvc.lock and the list of paths in use are whole.")


if __name__ == "__main__":
    main()
