"""Whether a model will fit, known before a byte of its weights is read."""

import psutil
import torch
from diffusers import ModelMixin

from ppd.errors import InputError


def require_room(
    network: type[ModelMixin], config: dict[str, object], dtype: torch.dtype, device: torch.device, base_id: str
) -> None:
    """Raises InputError if the network of this config has no room in the machine's memory or in the device's."""
    with torch.device("meta"):
        n_parameters = sum(weight.numel() for weight in network.from_config(config).parameters())
    needed = n_parameters * dtype.itemsize
    free = {"this machine": psutil.virtual_memory().available}
    if device.type == "cuda":
        free[str(device)] = torch.cuda.mem_get_info(device)[0]
    for place, room in free.items():
        if needed > room:
            raise InputError(
                f"{n_parameters / 1e9:.2f} billion parameters take {needed / 1e9:.1f} GB as {dtype}, "
                f"but {place} has {room / 1e9:.1f} GB free",
                file=base_id,
                fix="Use precision: bf16, a smaller base, or a larger machine",
            )
