"""The bench at the paper's sizes runs: every line of it on tiny networks, apart from what only a GPU has."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = {"per_second", "range", "peak_gb", "tflop_each", "share_of_peak", "floor_per_second", "device", "n", "unit"}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/paper_scale.py, whose modules lie beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        yield importlib.import_module("paper_scale")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "ways"),
    [
        ("train", {"ours, reference errors known", "ours, first run", "ours, reference errors known, cuda graph"}),
        ("plain", {"plain"}),
        ("bases", {"ours, reference errors known", "plain"}),
        ("embed", {"embed, prompt read", "embed, profile written"}),
        ("sample", {"sample, Stage C", "sample, Stage B and A"}),
        ("judge", {"judge, pairs read once", "judge, every question whole"}),
    ],
)
def test_a_part_measures_what_it_names(
    bench: ModuleType, part: str, ways: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.repeated_blocks, "BACKEND", bench.repeated_blocks.BACKEND)
    rows = list(bench.measure(part, "tiny", 1))
    assert {row["way"] for row in rows} == ways
    for row in rows:
        if "cuda graph" in row["way"]:
            assert "need a CUDA GPU" in row["error"], "a case that fails is a row, and the others are measured"
        else:
            assert row.keys() >= NUMBERS, row
            assert row["per_second"] > 0
    if part == "train":
        assert rows[0]["compiled"] == "block by block"
        assert sum(rows[0]["where"]["share"].values()) == pytest.approx(1, abs=0.2)


def test_the_page_says_what_was_measured_and_nothing_else(bench: ModuleType) -> None:
    page = importlib.import_module("paper_scale_page")
    text = page.PAGE.read_text(encoding="utf-8")
    found = page.measured(json.loads(page.RESULT.read_text())) if page.RESULT.is_file() else page.NOT_YET
    assert page.page_with(text, found) == text, "run: python bench/paper_scale_page.py"


def test_the_page_has_a_row_for_each_case(bench: ModuleType) -> None:
    here = {"device": "a GPU"}
    numbers = here | {"per_second": 24.5, "range": [24.1, 24.9], "share_of_peak": 0.4, "peak_gb": 68.6}
    where = {"wall_ms": 10.0, "kernels": 3, "ms": {"gaps": 2.0, "matrix products": 8.0}}
    trained = {"way": "ours", "unit": "pairs", "n": 16, "checkpointing": 0.5, "compiled": "block by block"}
    rows = [
        trained | numbers | {"where": where, "waits_a_step": 1},
        here | {"way": "plain", "unit": "pairs", "n": 16, "checkpointing": 0.0, "error": "OutOfMemoryError: too large"},
        {"way": "embed", "unit": "users", "n": 8, "words": 128} | numbers,
        {"way": "judge", "unit": "comparisons", "n": 8} | numbers | {"device": "another"},
    ]
    result = {"ways": rows, "device": "a GPU", "torch": "2.11", "settings": {"size": "full", "steps": 4}}
    said = importlib.import_module("paper_scale_page").measured(result)
    assert "| ours | 16 | 50% | block by block | 24.5 (24.1–24.9) | 40% | 68.6 | 1 |" in said
    assert "| plain | 16 | 0% | no | does not fit | | | |" in said
    assert "matrix products 8 ms (80%), gaps 2 ms (20%)." in said
    assert "| embed of 128 words | 8 | 24.5 users | 40% | 68.6 |" in said
    assert "| judge (another) | 8 | 24.5 comparisons | 40% | 68.6 |" in said, "rows of an earlier run say where"


@pytest.mark.slow
def test_the_file_keeps_rows_of_parts_that_are_not_run(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"ways": [{"part": "train", "way": "of before"}, {"part": "encode", "way": "old"}]}))
    command = [sys.executable, str(ROOT / "bench/paper_scale.py"), "--parts", "encode", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = json.loads(out.read_text())
    assert [row["way"] for row in found["ways"]] == ["of before", "encode"], done.stderr[-2000:]
    assert found.keys() == {"ways", "torch", "settings", "device", "seconds"}


def test_cut_short_a_part_leaves_the_rows_that_it_had(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """if True:
        import time
        print("a progress bar")
        print('{"part": "train", "way": "first"}', flush=True)
        time.sleep(60)
    """
    monkeypatch.setattr(bench, "__file__", "-c")
    monkeypatch.setattr(bench.sys, "executable", sys.executable)
    args = type("Args", (), {"size": "tiny", "steps": 1})()
    popen = subprocess.Popen
    monkeypatch.setattr(bench.subprocess, "Popen", lambda _, **how: popen([sys.executable, "-c", code], **how))
    assert list(bench.run_part("train", 3.0, args)) == [{"part": "train", "way": "first"}]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>", "matrix products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("void at::native::conv_depthwise2d_forward_kernel<3>", "convolutions"),
        ("sm80_xmma_dgrad_implicit_gemm_indexed_bf16bf16", "convolutions"),
        ("triton_red_fused_add_convolution_native_layer_norm_3", "element-wise"),
        ("triton_poi_fused_addmm_gelu_1", "element-wise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "element-wise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
    ],
)
def test_kernels_are_told_apart_by_their_names(bench: ModuleType, kernel: str, kind: str) -> None:
    assert importlib.import_module("where_a_step_goes").kind_of(kernel) == kind


def test_what_is_not_a_kernel_is_a_gap(bench: ModuleType) -> None:
    found = importlib.import_module("where_a_step_goes").summed([("gemm", 3.0), ("gemm", 1.0), ("add", 2.0)], 10.0)
    assert found["ms"] == {"matrix products": 4.0, "element-wise": 2.0, "gaps": 4.0}
    assert found["share"]["gaps"] == pytest.approx(0.4)
    assert found["longest"][0] == {"name": "gemm", "ms": 4.0}
