"""Where models run, and what trains on it in several processes: accelerate.

`accelerate launch` hands what `accelerate config` was told to training by variables of the environment, and accelerate
takes them over what its caller says. What decides results is in params.yaml alone, so they are dropped here.
"""

import os
import warnings

import torch
from accelerate import Accelerator
from rich.console import Console

PLACES = ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE")
"""Variables that say where processes run, which changes no result."""
_HARMLESS = {"", "no", "none", "false", "0", "1", "default"}


def this_device() -> torch.device:
    """The accelerator that belongs to this process, by its number on this machine; the CPU where there is none."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return torch.device(kind.type)
    index = int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count()
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


def accelerator_of(device: torch.device) -> Accelerator:
    """What trains on `device`, in as many processes as were started, in the precision that the model has.

    Meets the other processes where there are several. Unless told that they are CPUs, accelerate does not see processes
    without an accelerator as belonging together.
    """
    _drop_settings_of_accelerate()
    # Said of every weight with a dimension of one element, whose stride means nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no", gradient_accumulation_steps=1)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`, without waiting until the device has done what it was asked before.

    A copy from ordinary memory to a CUDA GPU waits for that; one from page-locked memory takes its turn.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _drop_settings_of_accelerate() -> None:
    """Forget every variable of accelerate's that is not one of `PLACES`; says which of them had an effect."""
    found = {name: os.environ.pop(name) for name in sorted(os.environ) if _is_setting(name)}
    spoken = [f"{name}={value}" for name, value in found.items() if value.lower() not in _HARMLESS]
    if spoken and os.environ.get("RANK", "0") == "0":
        words = f"accelerate's own settings are not used, params.yaml decides: {', '.join(spoken)}"
        Console(stderr=True).print(words, soft_wrap=True, markup=False)


def _is_setting(name: str) -> bool:
    return name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")) and name not in PLACES
