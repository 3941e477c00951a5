"""bf16 on a CPU without instructions for it: its products go through fp32.

Most laptops and many servers are such CPUs, and torch takes their bf16 products apart by shifts: a training step takes
1.7 times as long as through fp32 with AVX-512 and nine times as long with AVX2 alone (`bench/bf16_on_cpu.py`). The
instructions sum products of bf16 numbers in fp32 and round once; so does an fp32 product of the same numbers that is
rounded at the end. What differs is the order of the sums, as it does between any two kinds of CPU.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
"""All that a linear layer, attention by products and a convolution are, forwards and backwards, below autograd."""


def ready_for_bf16(device: torch.device | str) -> None:
    """Have bf16 products computed the faster way on this device, from now on and in all of the process."""
    if torch.device(device).type == "cpu" and lacks_bf16():
        products_through_fp32()


@cache
def products_through_fp32() -> torch.library.Library:
    """Replace torch's CPU kernels of `PRODUCTS` for bf16; for every other dtype they stay as they are."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")  # that a kernel is replaced
        for name in PRODUCTS:
            _replace(library, name)
    return library  # the kernels live as long as it does: the cache keeps it


def lacks_bf16() -> bool:
    """Whether this CPU is one of those that were measured (x86) and has neither AVX512_BF16 nor AMX.

    No, with an older torch that cannot say: then all stays as it is.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    cpu = torch.cpu.get_capabilities()
    return cpu["architecture"] == "x86_64" and not (cpu["avx512_bf16"] or cpu["amx_bf16"])


def _replace(library: torch.library.Library, name: str) -> None:
    op = getattr(torch.ops.aten, name).default
    own = torch.library.get_kernel(op, "CPU")

    def product(keys: torch.DispatchKeySet, *operands: Any, **more: Any) -> Any:
        if operands[0].dtype is not torch.bfloat16:
            return own.call_boxed(keys, *operands, **more)
        found = op(*(_cast(part, torch.float32) for part in operands), **more)
        if isinstance(found, tuple):
            return tuple(_cast(part, torch.bfloat16) for part in found)
        return _cast(found, torch.bfloat16)

    library.impl(name, product, "CPU", with_keyset=True)


def _cast(part: Any, dtype: torch.dtype) -> Any:
    return part.to(dtype) if isinstance(part, Tensor) else part
