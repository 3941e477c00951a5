"""The whole graph with params.sdxl.yaml and params.z-image.yaml made small, on tiny checkpoints of the real classes."""

import json
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from ppd.diffusion.adapter.checkpoint import read_config
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.sampling.store import read_samples
from ppd.settings import LogSettings, PeopleSettings, Settings, load_settings
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from tests.test_paper_scale import METHODS, SMALLER, run_every_stage
from tests.tiny import word_tokenizer, write_vlm
from tests.tiny_bases import write_base

ROOT = Path(__file__).parents[1]
BASES = ("sdxl", "z-image")
EVEN_SMALLER = {
    "models": {"image_px": 16, "encode_batch_size": 16},
    "finetune": {"steps": 2, "pairs_per_step": 2, "micro_batch_pairs": 2, "evaluation_pairs": 2},
    "sampling": {"latent_size": (8, 8), "steps": 2, "batch_size": 4},
}


@pytest.mark.parametrize("base", BASES)
def test_no_setting_of_the_pipeline_is_left_to_a_default(base: str) -> None:
    written = YAML(typ="safe", pure=True).load((ROOT / f"params.{base}.yaml").read_text())
    assert written.pop("people") == {}
    found = load_settings(ROOT / f"params.{base}.yaml").model_dump(mode="json", exclude={"people", "log"})
    assert found == written


@pytest.mark.parametrize("base", ["SDXL", "Z-Image"])
def test_the_page_says_what_the_bench_measured(base: str) -> None:
    rows = json.loads((ROOT / "bench/results/paper_scale_full.json").read_text())["ways"]
    ours, plain = (row for row in rows if row["part"] == "bases" and row["base"] == base)
    rates = [
        f"{ours['per_second']:.3g}",
        f"{plain['per_second']:.3g}" if "seconds" in plain else "did not fit in 80 GB",
    ]
    peaks = [f"{row['peak_gb']:.1f}" for row in (ours, plain) if "peak_gb" in row]
    line = f"| {' | '.join([base, str(ours['n']), *rates, *peaks])} |"
    assert line in (ROOT / "docs/bases.md").read_text()


@pytest.fixture(scope="module", params=BASES)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A folder in which every stage has run, and its settings."""
    whole = load_settings(ROOT / f"params.{request.param}.yaml")
    small = {name: changes | EVEN_SMALLER.get(name, {}) for name, changes in SMALLER.items()}
    settings = whole.model_copy(
        update={name: getattr(whole, name).model_copy(update=changes) for name, changes in small.items()}
        | {"rewards": ()}
    )
    folder = tmp_path_factory.mktemp(request.param)
    data = folder / "data"
    log = LogSettings(n_users=12, rows_per_user=(20, 22))
    simulate(log, PeopleSettings(), Atlas.load(ROOT / "data/stickers"), data / "choices", folder / "not-ours")
    for empty in ("truth", "stickers", "models/attribute-classifier", "models/clip"):
        (data / empty).mkdir(parents=True)
    tokenizer = word_tokenizer(["a", "sticker", "of", "fox", "cat"])
    tokenizer.model_max_length = 40
    (folder / settings.models.prior).mkdir(parents=True)
    write_base(folder / settings.models.prior, request.param, tokenizer)
    write_vlm(folder / settings.models.vlm)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_every_stage(settings)
    return folder, settings


@pytest.mark.slow
def test_the_whole_graph_runs_and_reports(project: tuple[Path, Settings]) -> None:
    folder, settings = project
    encoded = Encoded.open(folder / "artifacts/latents")
    assert encoded.latents.shape[1:] == (4, 8, 8)
    assert 0.01 < encoded.latents.float().std() < 10
    assert (encoded.text.lengths is not None) == (settings.sampling.sampler == "euler")
    rates = pd.DataFrame(json.loads((folder / "reports/win_rates.json").read_text()))
    assert set(rates[rates.method == "ppd"].opponent) == {"base", "dpo", "sft", "ppd-shuffled"}
    images = {m: read_samples(folder / f"artifacts/samples/{m}/images.parquet")[1] for m in ("base", *METHODS)}
    assert images["ppd"].shape[1:] == (16, 16, 3)
    assert images["ppd"].std(axis=(1, 2, 3)).min() > 1
    config = read_config(folder / "models/ppd")
    assert config.inference is not None
    assert config.inference.sampling == settings.sampling
