"""What this machine can run: devices, memory, disk, installed extras, checkpoints."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

State = Literal["ok", "missing", "low"]

EXTRAS: tuple[tuple[str, str], ...] = (
    ("studio", "the pipeline: dvc repro and the Dagster UI"),
    ("dev", "tests, and building the sticker world from its art"),
)
CHECKPOINTS: tuple[tuple[str, str], ...] = (
    ("data/models/vlm", "reads a person's choices"),
    ("data/models/prior", "draws"),
    ("data/models/attribute-classifier", "measures drawn stickers; evaluation only"),
    ("data/models/clip", "scores captions; evaluation only"),
)
_GIB = 1 << 30
_STICKER_MEMORY_GIB = 4.0
_STICKER_DISK_GIB = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and what to do when it is not `ok`."""

    topic: str
    found: str
    state: State = "ok"
    advice: str = ""


def examine(root: Path) -> Iterator[Finding]:
    """Everything that decides what can run in the repository at `root`. Imports torch, so it takes a few seconds."""
    yield Finding("python", f"{platform.python_version()} at {sys.prefix}")
    yield from _devices()
    yield _memory()
    yield _disk(root)
    yield from (_extra(name, purpose) for name, purpose in EXTRAS)
    yield from (_checkpoint(root, folder, purpose) for folder, purpose in CHECKPOINTS)


def _devices() -> Iterator[Finding]:
    import torch

    from ppd.bf16_on_cpu import lacks_bf16

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    bf16 = ", no bf16 instructions: bf16 is computed in fp32" if lacks_bf16("cpu") else ""
    yield Finding("processor", f"{cores} cores ({platform.machine()}{bf16}), torch {torch.__version__}")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding(f"gpu {index}", f"{gpu.name}, {gpu.total_memory / _GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("gpu", "Apple (mps)")
    elif not torch.cuda.is_available():
        yield Finding("gpu", "none: the sticker scale runs without one, the paper's scale does not")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    if memory.available < _STICKER_MEMORY_GIB * _GIB:
        return Finding("memory", found, "low", f"The sticker scale wants {_STICKER_MEMORY_GIB:g} GiB.")
    return Finding("memory", found)


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    found = f"{free / _GIB:.1f} GiB free"
    if free < _STICKER_DISK_GIB * _GIB:
        return Finding("disk", found, "low", f"The sticker scale wants {_STICKER_DISK_GIB:g} GiB.")
    return Finding("disk", found)


def _extra(name: str, purpose: str) -> Finding:
    wanted = [Requirement(line) for line in requires("ppd") or []]
    wanted = [req for req in wanted if req.marker is not None and req.marker.evaluate({"extra": name})]
    absent = [req.name for req in wanted if not _installed(req.name)]
    if absent:
        advice = f'pip install -c constraints.txt -e ".[{name}]"'
        return Finding(f"extra {name}", f"{purpose}; not installed: {', '.join(absent)}", "missing", advice)
    return Finding(f"extra {name}", purpose)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _checkpoint(root: Path, folder: str, purpose: str) -> Finding:
    if not (root / folder).is_dir():
        return Finding(folder, f"{purpose}; not there", "missing", "dvc pull data.dvc")
    size = sum(file.stat().st_size for file in (root / folder).rglob("*") if file.is_file())
    return Finding(folder, f"{purpose}; {size / (1 << 20):.1f} MiB")
