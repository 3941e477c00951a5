"""Whether a model will fit, known before a byte of its weights is read."""

import psutil
import torch
from diffusers import ModelMixin

from ppd.errors import InputError
from ppd.parts import here


class NoRoom(InputError):
    """A network does not fit in memory."""


def require_room(
    network: type[ModelMixin], config: dict[str, object], dtype: torch.dtype, device: torch.device, base_id: str
) -> None:
    """Raises NoRoom if the network of this config has no room in the machine's memory or in the device's.

    Of several processes on the machine each holds the weights for a while, on their way to its device: the first one
    asks for all of them, before any has begun.
    """
    with torch.device("meta"):
        n_parameters = sum(weight.numel() for weight in network.from_config(config).parameters())
    needed = n_parameters * dtype.itemsize
    n_loading = here().count if here().is_first else 1
    places = [("this machine", psutil.virtual_memory().available, n_loading)]
    if device.type == "cuda":
        places.append((str(device), torch.cuda.mem_get_info(device)[0], 1))
    for place, room, times in places:
        if needed * times > room:
            words = "" if times == 1 else f" in each of {times} processes"
            raise NoRoom(
                f"{n_parameters / 1e9:.2f} billion parameters take {needed / 1e9:.1f} GB as {dtype}{words}, "
                f"but {place} has {room / 1e9:.1f} GB free",
                file=base_id,
                fix="Use precision: bf16, a smaller base, fewer processes (launch), or a larger machine",
            )
