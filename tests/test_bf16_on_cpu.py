"""bf16 products on a CPU that has no instructions for them; the kernels are replaced in a process of their own."""

import subprocess
import sys

import pytest
import torch

from ppd import bf16_on_cpu

REPLACED = """
import torch
from torch.nn import functional as F
from ppd.bf16_on_cpu import products_through_fp32

def results(dtype):
    torch.manual_seed(0)
    x, image = torch.randn(4, 6, 32, requires_grad=True), torch.randn(2, 8, 5, 5, requires_grad=True)
    linear, bare = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32, bias=False)
    conv, up = torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.ConvTranspose2d(8, 4, 2, stride=2)
    for part in (linear, bare, conv, up):
        part.to(dtype)
    y = bare(linear(x.to(dtype)))
    scores = torch.baddbmm(y.new_zeros(4, 6, 6), y, y.transpose(1, 2)) + y @ y.transpose(1, 2)
    seen = up(F.gelu(conv(image.to(dtype))))
    (scores.float().square().mean() + seen.float().square().mean()).backward()
    grads = [w.grad for part in (linear, bare, conv, up) for w in part.parameters()]
    return [scores.detach(), seen.detach(), x.grad, image.grad, *grads]

before = {dtype: results(dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64)}
calls = []
own = torch.Tensor.to
torch.Tensor.to = lambda self, *how: (calls.append((self.dtype, *how)), own(self, *how))[1]
products_through_fp32()
after = {dtype: results(dtype) for dtype in before}
assert calls.count((torch.bfloat16, torch.float32)) > 20  # they did go through fp32
for dtype in (torch.float32, torch.float64):
    assert all(torch.equal(a, b) for a, b in zip(before[dtype], after[dtype], strict=True)), dtype
for a, b, exact in zip(before[torch.bfloat16], after[torch.bfloat16], before[torch.float64], strict=True):
    assert a.dtype is b.dtype and a.shape == b.shape
    scale = exact.abs().max()
    assert (b - exact).abs().max() / scale < max(0.02, 1.5 * float((a - exact).abs().max() / scale))
with torch.inference_mode():
    assert torch.nn.Linear(3, 3).bfloat16()(torch.ones(2, 3).bfloat16()).dtype is torch.bfloat16
print("the same")
"""


def test_products_are_the_same_but_for_rounding_and_other_dtypes_to_the_last_bit() -> None:
    done = subprocess.run([sys.executable, "-c", REPLACED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("the same\n", "")


@pytest.mark.parametrize(
    ("cpu", "lacks"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, False),
        ({"architecture": "aarch64", "neon": True}, False),  # not measured
    ],
)
def test_only_a_cpu_without_the_instructions_is_helped(
    cpu: dict[str, object], lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[bool] = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    monkeypatch.setattr(bf16_on_cpu, "products_through_fp32", lambda: replaced.append(True))
    bf16_on_cpu.ready_for_bf16("cpu")
    bf16_on_cpu.ready_for_bf16("meta")
    assert replaced == [True] * lacks


def test_an_older_torch_that_does_not_know_the_cpu_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not bf16_on_cpu.lacks_bf16()
