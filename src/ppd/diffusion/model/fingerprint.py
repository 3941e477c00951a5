"""A short name for weights, by their content."""

import hashlib

import torch
from torch import nn


def fingerprint(module: nn.Module, values_per_tensor: int = 256) -> str:
    """Hash of names, shapes and evenly spaced values of all weights; the same in whichever dtype they were loaded.

    Values are rounded to bf16 first. A sample is enough to tell models apart, and takes a moment even at 3.6 B
    parameters.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // values_per_tensor)].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
