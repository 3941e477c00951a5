"""bf16 on a CPU without instructions for it is computed in fp32, which is faster there and no less exact.

Most laptops and many servers are such CPUs, and torch takes their bf16 products apart by shifts: a training step in
fp32 takes half the time with AVX-512 and an eleventh with AVX2 alone (`bench/bf16_on_cpu.py`).
"""

import torch


def lacks_bf16(device: torch.device | str) -> bool:
    """Whether a device is a CPU of the kind that was measured (x86) and has neither AVX512_BF16 nor AMX.

    No, with an older torch that cannot say: then all stays as it is.
    """
    if torch.device(device).type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    cpu = torch.cpu.get_capabilities()
    return cpu["architecture"] == "x86_64" and not (cpu["avx512_bf16"] or cpu["amx_bf16"])
