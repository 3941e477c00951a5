"""Where bf16 is asked for on a CPU that has no instructions for it."""

import pytest
import torch

from ppd.bf16_on_cpu import lacks_bf16
from ppd.pretrain.loop import autocast


def told(monkeypatch: pytest.MonkeyPatch, cpu: dict[str, object]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)


OLD: dict[str, object] = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}
NEW: dict[str, object] = {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}


@pytest.mark.parametrize(
    ("cpu", "lacks"),
    [
        (OLD, True),
        (NEW, False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, False),
        ({"architecture": "aarch64", "neon": True}, False),  # not measured
    ],
)
def test_only_a_cpu_without_the_instructions_lacks_them(
    cpu: dict[str, object], lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, cpu)
    assert lacks_bf16("cpu") is lacks
    assert not lacks_bf16("meta")
    assert not lacks_bf16(torch.device("cuda", 1))


def test_an_older_torch_that_does_not_know_the_cpu_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not lacks_bf16("cpu")


def test_pretraining_computes_products_in_bf16_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cpu = torch.ones(2, 2), torch.device("cpu")
    for knows, wanted, expected in (
        (OLD, True, torch.float32),
        (NEW, True, torch.bfloat16),
        (NEW, False, torch.float32),
    ):
        told(monkeypatch, knows)
        with autocast(cpu, wanted):
            assert (x @ x).dtype is expected
