"""Where models run."""

import torch
from accelerate import PartialState


def this_device() -> torch.device:
    """The accelerator that belongs to this process, or the CPU; meets the other processes where there are several.

    Unless told that they are CPUs, accelerate does not see processes without an accelerator as belonging together.
    """
    return PartialState(cpu=not torch.accelerator.is_available()).device
