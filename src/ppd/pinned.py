"""Files of the pipeline as they are now, for something that reads them for hours while the pipeline goes on."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from ppd.errors import InputError

WAIT_LIMIT_S = 24 * 3600.0
_LOOK_EVERY_S = 2.0
_QUIET_LOOKS = 3
"""After waiting: between two stages of one `dvc repro` nobody holds anything for a moment."""


def being_made(root: Path, paths: Sequence[str]) -> list[str]:
    """Who writes to these paths now, as text: what DVC notes of running stages in .dvc/tmp/rwlock."""
    try:
        noted = json.loads((root / ".dvc/tmp/rwlock").read_text())["write"]
    except (OSError, ValueError, KeyError):  # no DVC, nothing running, or half written
        return []
    found = []
    for written, holder in noted.items():
        ours = any(_overlap(Path(written), (root / path).resolve()) for path in paths)
        if holder and ours and psutil.pid_exists(int(holder["pid"])):
            found.append(f"{os.path.relpath(written, root.resolve())} (process {holder['pid']})")
    return sorted(found)


def wait_until_made(
    root: Path, paths: Sequence[str], log: Callable[[str], None], limit_s: float = WAIT_LIMIT_S
) -> None:
    """Wait while somebody writes to these paths, and say to `log` who. Raises InputError after `limit_s`."""
    deadline, reported, quiet = time.monotonic() + limit_s, "", _QUIET_LOOKS
    while True:
        holders = ", ".join(being_made(root, paths))
        quiet = 0 if holders else quiet + 1
        if quiet >= _QUIET_LOOKS:
            return
        if holders and time.monotonic() > deadline:
            raise InputError(f"still being made after {limit_s / 3600:g} h: {holders}", fix="End it, or try later")
        if holders and holders != reported:
            log(f"being made: {holders}; waiting for it")
            reported = holders
        time.sleep(_LOOK_EVERY_S)


def listing(root: Path, paths: Iterable[str], times: bool = True) -> dict[str, list[int]]:
    """Each file below these paths with its size, and when it was written in ns: changes with what is in them."""
    files: dict[str, list[int]] = {}
    for path in paths:
        whole = root / path
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.is_file():
                found = file.stat()
                files[str(file.relative_to(root) if file.is_relative_to(root) else file)] = (
                    [found.st_size, found.st_mtime_ns] if times else [found.st_size]
                )
    return files


def pin(root: Path, paths: Sequence[str], folder: Path, log: Callable[[str], None]) -> dict[str, list[int]]:
    """Put all of these paths into `folder` as they are at one time, and return their `listing`.

    As hard links where the file system has them, else as copies: stages replace files and never change one, so a link
    keeps what it had. Begins again when something was made meanwhile. Raises InputError for a path that is gone.
    """
    while True:
        wait_until_made(root, paths, log)
        if gone := [path for path in paths if not (root / path).exists()]:
            raise InputError(f"{gone[0]} is gone, and nobody makes it", fix="Run `dvc repro` first.")
        before = listing(root, paths)
        for path in paths:
            shutil.rmtree(folder / path, ignore_errors=True)
        try:
            for name in before:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _link(root / name, folder / name)
        except FileNotFoundError:
            continue  # replaced meanwhile
        for path in paths:  # folders that hold nothing
            if (root / path).is_dir():
                (folder / path).mkdir(parents=True, exist_ok=True)
        if not being_made(root, paths) and listing(root, paths) == before:
            return before


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents
