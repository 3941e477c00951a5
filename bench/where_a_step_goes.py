"""Where the time of a step goes, by kind of work: matrix products, attention, convolutions, element-wise work, gaps."""

import json
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": r"flash|fmha|attention|sdpa|softmax_warp|softmax",
    "convolutions": r"conv|dgrad|wgrad|implicit_gemm|depthwise",
    "matrix products": r"gemm|nvjet|cutlass|cublas|matmul|splitk|gemv|::mm|::bmm|::addmm|::linear|::baddbmm",
    "copies": r"memcpy|memset",
}
"""By the names of kernels and of operators; what matches none is element-wise work and sums. The first match counts."""
REST = "element-wise"


def kind_of(name: str) -> str:
    """The kind of work of a kernel or operator. The compiler's own kernels are element-wise, but for its templates."""
    if name.startswith("triton_"):
        return "matrix products" if name.startswith("triton_tem") else REST
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST)


def where_it_goes(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Milliseconds of one call by kind of work, the share of each, and the ten names that take longest.

    On a CUDA GPU by its kernels, and gaps are the time in which none runs; elsewhere by operators' own CPU time, and
    gaps are the rest of the wall time: Python, and the profiler.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        wall_ms = 1000 * (time.perf_counter() - start)
    if on_gpu:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
        work = [(e["name"], e["dur"] / 1000) for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    else:
        work = [(e.key, e.self_cpu_time_total / 1000) for e in profiler.key_averages()]
    return summed(work, wall_ms)


def summed(work: Iterable[tuple[str, float]], wall_ms: float) -> dict[str, Any]:
    """(name, milliseconds) of what ran one after the other within `wall_ms`."""
    kinds: dict[str, float] = defaultdict(float)
    names: Counter[str] = Counter()
    n = 0
    for name, ms in work:
        kinds[kind_of(name)] += ms
        names[name] += ms
        n += 1
    kinds["gaps"] = max(0.0, wall_ms - sum(kinds.values()))
    return {
        "wall_ms": wall_ms,
        "ms": dict(kinds),
        "share": {kind: ms / wall_ms for kind, ms in kinds.items()},
        "kernels": n,
        "longest": [{"name": name[:120], "ms": ms} for name, ms in names.most_common(15)],
    }
