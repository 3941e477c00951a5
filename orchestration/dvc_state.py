"""What DVC ran last, in dvc.lock, and what lies in the working tree now, as plain data.

This module, `dvc_graph` and `dvc_lock` are the only ones that touch DVC's internals (`dvc.repo.Repo`, not promised
stable); the versions that they were written for are in constraints.txt.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.lock import LockError
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import PipelineStage

from orchestration.dvc_lock import load_lock, lock_files, undisturbed
from orchestration.dvc_process import BUSY_LIMIT_S, BUSY_POLL_S


@dataclass(frozen=True, kw_only=True)
class Locked:
    """What dvc.lock says of the last run of one item."""

    cmd: str
    deps: Mapping[str, str]
    """Path -> version. A version is DVC's MD5 (of a folder: of its listing)."""
    params: Mapping[tuple[str, str], str]
    outs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Changes with anything in the entry. Outputs alone would hide a run that gave the same result."""
        return digest([self.cmd, sorted(self.deps.items()), sorted(self.params.items()), sorted(self.outs.items())])


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Versions of what lies in the working tree, in the same terms as `Locked`. What does not exist is left out."""

    paths: Mapping[str, str]
    params: Mapping[tuple[str, str], str]


def read_lock(root: Path) -> dict[str, Locked]:
    """What the dvc.lock of each pipeline holds, by address of the item; empty before the first run.

    Raises one of `dvc_lock.BROKEN` when a lock cannot be read for longer than DVC takes to write it, nor be mended.
    """
    return undisturbed(root, lambda: _read_lock(root))


def _read_lock(root: Path) -> dict[str, Locked]:
    locks: dict[str, Locked] = {}
    for path in lock_files(root):
        if path.exists():
            pipeline = "" if path.parent == root else f"{path.parent.name}/dvc.yaml:"
            locks |= {pipeline + name: _locked(entry) for name, entry in load_lock(path).get("stages", {}).items()}
    return locks


def read_workspace(root: Path) -> Workspace:
    """Hash what stages depend on and what .dvc files track, as it lies there now.

    Files that have not changed are not read again (DVC keeps their hashes), and no lock is taken: `dvc status` would
    fail while a stage runs.
    """
    return undisturbed(root, lambda: _read_workspace(root))


def _read_workspace(root: Path) -> Workspace:
    hashed: dict[str, Output] = {}
    settings: dict[str, ParamsDependency] = {}
    with Repo(str(root)) as repo:
        # Each path once, and each file of settings: many stages read the same.
        for stage in repo.index.stages:
            for dep in stage.deps:
                if isinstance(dep, ParamsDependency):
                    whole = settings.setdefault(dep.fs_path, ParamsDependency(stage, dep.def_path))
                    whole.params += [section for section in dep.params if section not in whole.params]
                else:
                    hashed.setdefault(dep.fs_path, dep)
            if not isinstance(stage, PipelineStage):
                hashed |= {out.fs_path: out for out in stage.outs}
        paths = {relative(path, root): each.get_hash().value for path, each in hashed.items() if each.exists}
        params = {
            (relative(path, root), section): digest(value)
            for path, dep in settings.items()
            for section, value in dep.read_params().items()
        }
    return Workspace(paths=paths, params=params)


def out_of_date(root: Path, addresses: Sequence[str]) -> dict[str, Any]:
    """What `dvc status` says of these items; empty when they are up to date.

    Waits for whoever is writing what they read. Raises LockError, which says who, after `BUSY_LIMIT_S`.
    """
    deadline = time.monotonic() + BUSY_LIMIT_S
    while True:
        try:
            with Repo(str(root), _wait_for_lock=True) as repo:
                status: dict[str, Any] = repo.status(targets=list(addresses))
            return status
        except LockError:
            if time.monotonic() > deadline:
                raise
            time.sleep(BUSY_POLL_S[0])


def default_remote(root: Path) -> tuple[str, str] | None:
    """Name and URL of the remote that `dvc push` takes; None where there is none."""
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote")
        return (name, repo.config["remote"][name]["url"]) if name else None


def is_inside(url: str, root: Path) -> bool:
    """Whether a remote's URL is a folder inside the repository."""
    return "://" not in url and (root / url).resolve().is_relative_to(root.resolve())


def _locked(entry: Mapping[str, Any]) -> Locked:
    return Locked(
        cmd=entry["cmd"] if isinstance(entry["cmd"], str) else "\n".join(entry["cmd"]),
        deps={dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])},
        params={
            (file, name): digest(value)
            for file, values in entry.get("params", {}).items()
            for name, value in values.items()
        },
        outs={out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
    )


def relative(path: str, root: Path) -> str:
    """The path as dvc.yaml and dvc.lock say it: from the repository's root, with forward slashes."""
    return Path(path).resolve().relative_to(root.resolve()).as_posix()


def digest(value: object) -> str:
    """A version of anything that JSON can hold, the same whatever the order of its keys."""
    return hashlib.md5(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
