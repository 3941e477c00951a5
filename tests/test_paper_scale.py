"""params.paper.yaml with small numbers runs the whole graph on tiny checkpoints of the real classes.

Shards of Pick-a-Pic, a LLaVA-OneVision asked the full prompt, Stage C, the EfficientNet encoder, Stage B and A; and
nobody's true taste is known.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from ppd import stages
from ppd.diffusion.encoding.store import Encoded
from ppd.diffusion.sampling.store import read_samples
from ppd.launch import run_processes
from ppd.layout import Layout
from ppd.pretrain.latent_pool import CAPTIONS
from ppd.settings import LogSettings, Method, PeopleSettings, Settings, load_settings
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from tests.tiny import word_tokenizer, write_aesthetic_head, write_clip, write_codec, write_prior, write_vlm

ROOT = Path(__file__).parents[1]
METHODS: tuple[Method, ...] = ("ppd", "dpo", "sft")
SMALLER = {
    "models": {"image_px": 96, "encode_batch_size": 16},
    "preferences": {
        "max_groups": 1,
        "n_shards": 1,
        "eval_caption_share": 0.25,
        "validation_user_share": 0.2,
        "test_user_share": 0.2,
    },
    "finetune": {
        "steps": 3,
        "pairs_per_step": 4,
        "micro_batch_pairs": 2,
        "evaluation_pairs": 4,
        "compile": False,
        "learning_rate": 0.03,  # so that three steps can be seen in a picture
        "warmup_steps": 1,
    },
    "sampling": {"latent_size": (3, 3), "steps": 2, "batch_size": 4},
    "evaluation": {
        "n_unseen_users": 2,
        "n_seen_users": 2,
        "captions_per_user": 2,
        "n_seeds": 2,
        "n_interpolations": 1,
        "points_per_interpolation": 2,
    },
    "embedding": {"rows": (2, 3), "components": 4, "max_new_tokens": 4},
}
UNITS = ("ppd.vlm.refresh.UNIT", "ppd.diffusion.sampling.run.BATCHES_PER_UNIT", "ppd.evaluation.judge.USERS_PER_UNIT")

pytestmark = pytest.mark.slow


def run_every_stage(settings: Settings) -> None:
    """From the log to the report, in the working directory; one shard."""
    layout = Layout()
    stages.ingest(settings, layout)
    stages.truth(settings, layout)
    stages.encode(settings, layout)
    stages.embed(settings, layout, "s-00")
    stages.users(settings, layout)
    for method in METHODS:
        stages.finetune(settings, layout, method)
        stages.adapter(settings, layout, method)
    for model in ("base", *METHODS):
        stages.sample(settings, layout, model)
    stages.judge(settings, layout)
    stages.report(settings, layout)


@pytest.fixture(scope="module")
def settings() -> Settings:
    paper = load_settings(ROOT / "params.paper.yaml")
    return paper.model_copy(
        update={name: getattr(paper, name).model_copy(update=changes) for name, changes in SMALLER.items()}
    )


@pytest.fixture(scope="module")
def project(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("paper")
    data = folder / "data"
    log = LogSettings(n_users=14, rows_per_user=(20, 22))
    simulate(log, PeopleSettings(), Atlas.load(ROOT / "data/stickers"), data / "choices", folder / "not-ours")
    for empty in ("truth", "stickers", "models/attribute-classifier", "models/clip"):
        (data / empty).mkdir(parents=True)
    cascade = folder / settings.models.prior
    write_prior(cascade, word_tokenizer(["a", "sticker", "of", "fox", "cat"]), channels=16)
    write_codec(cascade / "codec")
    write_vlm(folder / settings.models.vlm)
    for reward in settings.rewards:
        write_clip(folder / reward.checkpoint, CAPTIONS)
        if reward.head:
            write_aesthetic_head(folder / reward.head)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for unit in UNITS:  # small, as where several processes share them: a file is put together unit by unit
            patch.setattr(unit, 1)
        run_every_stage(settings)
    return folder


def test_the_report_has_the_judges_verdicts_alone_and_says_so(project: Path) -> None:
    rates = pd.DataFrame(json.loads((project / "reports/win_rates.json").read_text()))
    assert set(rates.judge) == {"vlm"}
    assert set(rates[rates.method == "ppd"].opponent) == {"base", "dpo", "sft", "ppd-shuffled"}
    assert rates.gain_sd.isna().all()
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert {name.split(".")[0] for name in metrics} == {"judge", "headline", "difference", "reward"}
    page = (project / "reports/index.html").read_text()
    assert "nobody’s true taste is known" in page
    assert "The people here are simulated" not in page
    assert page.count('alt="Interpolation strip"') == 1
    assert "Utility to both people" not in page


def test_every_method_is_scored_by_every_published_reward(project: Path) -> None:
    metrics = json.loads((project / "reports/metrics.json").read_text())
    for reward in ("clip", "aesthetic", "pick-score", "hps"):
        means = {metrics[f"reward.{reward}.{method}"] for method in ("base", *METHODS)}
        assert len(means) > 1, "different images, different scores"


def test_images_pass_through_the_real_codec(project: Path) -> None:
    latents = Encoded.open(project / "artifacts/latents").latents
    assert latents.shape[1:] == (16, 3, 3)
    assert 0.1 < latents.float().std() < 10
    wishes, images = read_samples(project / "artifacts/samples/ppd/images.parquet")
    assert images.shape == (len(wishes), 128, 128, 3)
    assert images.std(axis=(1, 2, 3)).min() > 1


def test_the_full_prompt_is_answered_and_read_at_its_end(project: Path) -> None:
    people = pd.read_parquet(project / "artifacts/users/s-00/embeddings.parquet")
    assert set(map(tuple, people["shape"])) == {(2, 24)}
    verdicts = pd.read_parquet(project / "artifacts/verdicts/vlm.parquet")
    assert verdicts.prompt.str.contains("Which of the two would this person prefer").all()


SHARED = ("artifacts/latents", "artifacts/users/s-00", "artifacts/samples/ppd", "artifacts/verdicts")


def test_any_number_of_processes_leaves_the_same_bytes_also_after_one_of_them_died(
    project: Path, settings: Settings, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    for folder in (*SHARED, "reports"):
        shutil.rmtree(copy / folder)
    with (copy / "params.yaml").open("w") as file:
        YAML().dump(settings.model_dump(mode="json"), file)
    command = [sys.executable, str(Path(__file__).with_name("share_in_processes.py")), str(copy)]
    assert run_processes([*command, "dying"], 2) == 9
    assert list((copy / "runs/unfinished/judge").rglob("*.parquet")), "what was judged is kept"
    assert not (copy / "artifacts/verdicts").exists()
    assert run_processes(command, 2) == 0
    for folder in SHARED:
        files = sorted(file.relative_to(project) for file in (project / folder).rglob("*") if file.is_file())
        assert files
        for file in files:
            assert (copy / file).read_bytes() == (project / file).read_bytes(), file
    assert (copy / "reports/metrics.json").read_bytes() == (project / "reports/metrics.json").read_bytes()
    assert {folder.name for folder in (copy / "runs/unfinished").iterdir()} <= {"reference"}, "nothing is left behind"
