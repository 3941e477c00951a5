"""Safetensors files that check themselves when they are read: the header carries a checksum of the contents."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ppd.errors import DamagedFile, InputError

ABOUT = "ppd"
"""The header's one key, which holds all of ours: the library writes several in an order that changes with each run."""


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of any device, and `metadata`, with their checksum."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"metadata": dict(metadata or {}), "sha256": _checksum(ready)}
    save_file(ready, file, metadata={ABOUT: json.dumps(about, sort_keys=True)})


def load_tensors(file: Path, *, check: bool = True) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, mapped: read where they are used. Raises as `load_with_metadata` does."""
    return load_with_metadata(file, check=check)[0]


def load_with_metadata(file: Path, *, check: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata beside them. A file by others, without a checksum, is taken as it is.

    check: read all of it and compare it with its checksum; without, only a file that was cut is noticed. Raises
    InputError if it is not there, DamagedFile if it is not as it was written.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = dict(stored.metadata() or {})
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise InputError("is not there", file=file, fix="Run `dvc repro`, which makes what is missing") from error
    except (SafetensorError, OSError) as error:
        raise DamagedFile(error, file) from error
    if ABOUT not in metadata:
        return tensors, metadata
    try:
        about = json.loads(metadata[ABOUT])
        intact = not check or about["sha256"] == _checksum(tensors)
        written = dict(about["metadata"])
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(error, file) from error
    if not intact:
        raise DamagedFile("its contents are not those that were written", file)
    return tensors, written


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
