"""The whole graph, from the log to the report, on a small log: a tiny untrained prior, the shipped VLM."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from ruamel.yaml import YAML
from typer.testing import CliRunner

from orchestration.metadata import describe, describe_user
from ppd import stages
from ppd.cli import app
from ppd.diffusion.adapter.export import export_adapter
from ppd.diffusion.model.codec import ImageCodec
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.sampling.store import read_samples
from ppd.errors import InputError
from ppd.layout import Layout
from ppd.personalizer import Personalizer, read_pairs
from ppd.preferences.store import Preferences
from ppd.pretrain.latent_pool import CAPTIONS
from ppd.pretrain.text import caption_tokenizer
from ppd.settings import (
    EvaluationSettings,
    FinetuneSettings,
    LogSettings,
    Method,
    PeopleSettings,
    PreferenceSettings,
    SamplingSettings,
    Settings,
)
from ppd.simulation.log import simulate
from ppd.simulation.render import Atlas
from ppd.simulation.truth.belongs import write_truth
from ppd.stage_times import timed
from ppd.users.whitening import Whitening
from tests.test_files import room_for
from tests.tiny import write_prior

LAYOUT = Layout()
METHODS: tuple[Method, ...] = ("ppd", "dpo", "sft")
ROOT = Path(__file__).parents[1]
SETTINGS = Settings(
    preferences=PreferenceSettings(
        eval_caption_share=0.25, validation_user_share=0.2, test_user_share=0.2, max_groups=1, n_shards=2
    ),
    finetune=FinetuneSettings(precision="fp32", steps=4, pairs_per_step=4, micro_batch_pairs=4, evaluate_every_steps=2),
    sampling=SamplingSettings(precision="fp32", steps=2, batch_size=16),
    evaluation=EvaluationSettings(n_unseen_users=3, n_seen_users=2, captions_per_user=2, n_seeds=4, n_interpolations=1),
)

pytestmark = pytest.mark.slow


def tiny_prior(folder: Path) -> None:
    """An untrained Stable Cascade for stickers in the hub's layout."""
    write_prior(folder, caption_tokenizer(CAPTIONS), channels=8, patch_size=2)
    ImageCodec().save_pretrained(folder / "codec")


UNREADABLE = b"nobody but evaluation may read this"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run. Before evaluation, whoever reads the truth finds that it is no parquet."""
    folder = tmp_path_factory.mktemp("project")
    data = folder / "data"
    (data / "models").mkdir(parents=True)
    for shared in ("stickers", "models/vlm", "models/attribute-classifier", "models/clip"):
        (data / shared).symlink_to(ROOT / "data" / shared)
    tiny_prior(data / "models" / "prior")
    log = LogSettings(n_users=14, rows_per_user=(24, 28))
    simulate(log, PeopleSettings(), Atlas.load(data / "stickers"), data / "choices", data / "truth")
    truth = {file: file.read_bytes() for file in (data / "truth").iterdir()}
    for file in truth:
        file.write_bytes(UNREADABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stages.ingest(SETTINGS, LAYOUT)
        stages.encode(SETTINGS, LAYOUT)
        for shard in ("s-00", "s-01"):
            stages.embed(SETTINGS, LAYOUT, shard)
        stages.users(SETTINGS, LAYOUT)
        for method in METHODS:
            stages.finetune(SETTINGS, LAYOUT, method)
            stages.adapter(SETTINGS, LAYOUT, method)
        for model in ("base", *METHODS):
            stages.sample(SETTINGS, LAYOUT, model)
        with pytest.raises(InputError, match="not a table of a truth"):
            stages.truth(SETTINGS, LAYOUT)
        assert not (folder / "artifacts" / "truth").exists()
        for file, content in truth.items():
            file.write_bytes(content)
        stages.truth(SETTINGS, LAYOUT)
        stages.judge(SETTINGS, LAYOUT)
        stages.report(SETTINGS, LAYOUT)
    return folder


def test_it_ends_in_the_report_with_every_promised_comparison(project: Path) -> None:
    rates = pd.DataFrame(json.loads((project / "reports" / "win_rates.json").read_text()))
    ours = rates[rates.method == "ppd"]
    assert set(ours.opponent) == {"base", "dpo", "sft", "ppd-shuffled"}
    assert set(ours.judge) == {"vlm", "ground-truth"}
    assert set(ours.users) == {"seen", "unseen"}
    assert set(ours.pairing) == {"independent", "same-seed"}
    assert ours.win_rate.between(0, 1).all()
    assert (rates.ci_low <= rates.win_rate).all()
    assert (rates.win_rate <= rates.ci_high).all()
    assert rates[rates.judge == "vlm"].gain_sd.isna().all()
    metrics = json.loads((project / "reports" / "metrics.json").read_text())
    assert all(isinstance(value, float) for value in metrics.values())
    assert (project / "reports" / "index.html").stat().st_size > 20_000


def test_the_ends_of_a_journey_are_the_two_people(project: Path) -> None:
    ways = pd.read_parquet(project / "artifacts" / "verdicts" / "interpolations.parquet")
    drawn = pd.read_parquet(project / "artifacts" / "samples" / "ppd" / "interpolations.parquet")
    images = pd.read_parquet(project / "artifacts" / "samples" / "ppd" / "images.parquet")
    pictures = images.set_index(["user_id", "caption", "seed"]).png
    ends = [(0.0, ways["first"].iloc[0]), (1.0, ways.second.iloc[0])]
    compared = 0
    for share, user_id in ends:
        for png, caption, seed in zip(
            *(drawn[ways["share"] == share][c] for c in ("png", "caption", "seed")), strict=True
        ):
            if (user_id, caption, seed) in pictures.index:
                assert pictures.loc[user_id, caption, seed] == png
                compared += 1
    assert compared


def test_every_verdict_of_the_judge_is_kept_with_its_prompt(project: Path) -> None:
    verdicts = pd.read_parquet(project / "artifacts" / "verdicts" / "vlm.parquet")
    assert verdicts.prompt.str.len().min() > 20
    assert set(verdicts.word_shown) | set(verdicts.word_swapped) <= {"first", "second"}
    agreed = verdicts.word_shown != verdicts.word_swapped
    assert ((verdicts.outcome != 0.5) == agreed).all()


def test_without_a_truth_nothing_of_the_simulated_world_is_imported_and_the_vlm_judges_alone(project: Path) -> None:
    folder = project.parent / "real"
    shutil.copytree(project, folder, symlinks=True)
    shutil.rmtree(folder / "data" / "truth")
    shutil.rmtree(folder / "artifacts" / "verdicts")
    settings = folder / "params.yaml"
    with settings.open("w") as file:
        YAML().dump(SETTINGS.model_dump(mode="json"), file)
    script = (
        "import sys; from ppd import stages; from ppd.layout import Layout; from ppd.settings import load_settings\n"
        "settings, layout = load_settings('params.yaml'), Layout()\n"
        "stages.truth(settings, layout)\n"
        "before = set(sys.modules)\n"
        "stages.judge(settings, layout); stages.report(settings, layout)\n"
        "print([name for name in set(sys.modules) - before if name.startswith('ppd.simulation')])"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
    rates = json.loads((folder / "reports" / "win_rates.json").read_text())
    assert {rate["judge"] for rate in rates} == {"vlm"}
    assert "simulated" not in (folder / "reports" / "index.html").read_text()


def test_a_truth_of_other_users_is_not_used(project: Path, tmp_path: Path) -> None:
    given, log = project / "data" / "truth", Preferences.open(project / "artifacts" / "preferences")
    assert "is known" in write_truth(log, given, tmp_path / "own")
    assert {file.name for file in (tmp_path / "own").iterdir()} == {"people.parquet", "images.parquet", "truth.json"}
    others = tmp_path / "others"
    shutil.copytree(given, others)
    people = pd.read_parquet(given / "people.parquet")
    people.iloc[1:].to_parquet(others / "people.parquet")
    assert "does not know 1 of" in write_truth(log, others, tmp_path / "refused")
    assert [file.name for file in (tmp_path / "refused").iterdir()] == ["truth.json"]
    people.to_parquet(others / "people.parquet")  # the same ids, but of people who saw other pictures
    images = pd.read_parquet(given / "images.parquet")
    images.assign(digest=[bytes(16)] * len(images)).to_parquet(others / "images.parquet")
    assert "images" in write_truth(log, others, tmp_path / "refused")
    assert "there is no" in write_truth(log, tmp_path / "nothing", tmp_path / "refused")


def test_running_a_stage_again_changes_no_byte_of_what_it_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    names = ("win_rates.json", "metrics.json", "index.html")
    before = {name: (project / "reports" / name).read_bytes() for name in names}
    stages.sample(SETTINGS, LAYOUT, "ppd")
    stages.judge(SETTINGS, LAYOUT)
    with timed("report", LAYOUT.stage_times):
        stages.report(SETTINGS, LAYOUT)
    stages.report(SETTINGS, LAYOUT)
    assert before == {name: (project / "reports" / name).read_bytes() for name in before}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file that stages leave; what is half written or unfinished too, as long as it lies beside them."""
    left = [file for top in ("artifacts", "models", "reports") for file in (folder / top).rglob("*")]
    return {file.relative_to(folder): file.read_bytes() for file in left if file.is_file()}


def test_a_disk_that_is_full_for_any_stage_is_a_sentence_and_changes_no_output(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """No file may grow beyond one KiB: as on a full disk. With room the same call goes through."""
    folder = shutil.copytree(project, tmp_path / "full", symlinks=True)
    monkeypatch.chdir(folder)
    calls: list[tuple[Callable[..., None], str | None]] = [
        *((stages.ingest, None), (stages.truth, None), (stages.encode, None), (stages.users, None)),
        *((stage, "ppd") for stage in (stages.finetune, stages.adapter, stages.sample)),
        *((stages.judge, None), (stages.report, None), (stages.embed, "s-00")),
    ]
    for stage, option in calls:
        if stage is stages.embed:  # where everybody is embedded there is nothing to write
            shutil.rmtree(folder / "artifacts/users/s-00")
        before, options = contents(folder), () if option is None else (option,)
        with subtests.test(stage.__name__):
            with (
                Path(os.devnull).open("w") as nowhere,
                redirect_stdout(nowhere),
                redirect_stderr(nowhere),
                room_for(1024),
                pytest.raises(InputError, match="larger than this disk or the limits"),
            ):
                stage(SETTINGS, LAYOUT, *options)
            assert contents(folder) == before
    stages.embed(SETTINGS, LAYOUT, "s-00")
    assert contents(folder) == contents(project)


def test_embedding_again_embeds_nobody(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("ppd.vlm.refresh.embed", None)
    before = (project / "artifacts/users/s-00/embeddings.parquet").read_bytes()
    stages.embed(SETTINGS, LAYOUT, "s-00")
    assert (project / "artifacts/users/s-00/embeddings.parquet").read_bytes() == before


def test_a_person_of_the_log_is_drawn_for_as_evaluation_draws(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    drawn, images = read_samples(project / "artifacts/samples/ppd/images.parquet")
    user_id, caption, seed = drawn.iloc[0]
    ppd = Personalizer.load()
    (image,) = ppd.sample(caption, ppd.known_user(user_id), seed=int(seed))
    assert np.abs(np.asarray(image).astype(int) - images[0]).max() <= 1  # batches round differently
    with pytest.raises(InputError, match="no user 'nobody'"):
        ppd.known_user("nobody")


def test_the_ui_has_something_to_show_of_every_output(project: Path) -> None:
    for path in (
        *("artifacts/preferences", "artifacts/latents", "artifacts/users/s-00", "artifacts/users.parquet"),
        *(f"models/{method}" for method in METHODS),
        *(f"artifacts/samples/{model}" for model in ("base", *METHODS)),
        *("artifacts/verdicts", "reports/win_rates.json", "reports/metrics.json", "reports/index.html"),
    ):
        assert describe(project, path), path
    user_id = Preferences.open(project / "artifacts/preferences").users.user_id[0]
    assert describe_user(project, user_id)["shard"] in ("s-00", "s-01")


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_blocks_of_the_readme_run_as_they_stand(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "examples").symlink_to(ROOT / "examples")
    with (project / "params.yaml").open("w") as file:
        YAML().dump(SETTINGS.model_dump(mode="json"), file)
    (python,) = blocks("python")
    names: dict[str, object] = {}
    exec(python, names)
    assert len(names["images"]) == 4 and len(names["between"]) == 5  # type: ignore[arg-type]
    commands = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    for command in commands:
        name, *arguments = shlex.split(command)
        if name == "make":
            assert (
                subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, check=False).returncode == 0
            )
        else:
            assert name == "ppd"
            ran = CliRunner().invoke(app, arguments)
            assert ran.exit_code == 0, ran.output
    assert len(list((project / "runs/personalized").glob("*.png"))) == 4


def test_the_commands_of_the_page_on_lora_make_files_that_peft_loads(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    if not (project / "examples").exists():
        (project / "examples").symlink_to(ROOT / "examples")
    with (project / "params.yaml").open("w") as file:
        YAML().dump(SETTINGS.model_dump(mode="json"), file)
    users = Preferences.open(LAYOUT.preferences).users
    user = users.user_id[users.split == "train"].iloc[0]
    commands = [line.partition("#")[0] for block in blocks("sh", "docs/lora.md") for line in block.splitlines()]
    for command in commands:
        _, *arguments = shlex.split(command.replace("USER", user))
        few = ["--steps", "2"] if "--adapter" not in arguments and arguments[0] == "adapter" else []
        ran = CliRunner().invoke(app, [*arguments, *few])
        assert ran.exit_code == 0, ran.output
    assert "rank 16, alpha 16, and nothing else" in (project / "runs/lora/exported/README.md").read_text()
    (python,) = blocks("python", "docs/lora.md")
    exec(python, {})
    prior = load_backbone("data/models/prior")
    inputs = torch.randn(1, 8, 16, 16), torch.tensor([0.8]), prior.encode_captions(["a sticker of a fox"])
    with torch.no_grad():
        base = prior.predict(*inputs)
        for name in ("ann", "known", "own-plain"):
            loaded = PeftModel.from_pretrained(prior.network, f"runs/lora/{name}")
            assert not torch.equal(prior.predict(*inputs), base), name
            loaded.unload()


def test_an_exported_adapter_draws_the_same_images_elsewhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that holds the adapter, the base and the vision-language model, and nothing else."""
    monkeypatch.chdir(project)
    choices = read_pairs(ROOT / "examples/ann")
    here = Personalizer.load()
    image = np.asarray(here.sample("a sticker of a fox", here.embed(choices), seed=3)[0])
    export_adapter(project / "models/ppd", tmp_path / "adapter", project / "reports")
    assert "Win rates" in (tmp_path / "adapter/README.md").read_text()
    for model in ("prior", "vlm"):
        shutil.copytree(project / "data/models" / model, tmp_path / model)
    monkeypatch.chdir(tmp_path)
    there = Personalizer.load("adapter", base="prior", vlm="vlm")
    np.testing.assert_array_equal(
        np.asarray(there.sample("a sticker of a fox", there.embed(choices), seed=3)[0]), image
    )
    with pytest.raises(InputError, match="no LLaVA-OneVision checkpoint"):
        Personalizer.load("adapter", base="prior")
    with pytest.raises(InputError, match="not complete"):
        Personalizer.load(project / "artifacts/trained/ppd", base="prior", vlm="vlm")
    (tmp_path / "adapter/whitening.safetensors").unlink()
    with pytest.raises(InputError, match="not complete"):
        Personalizer.load("adapter", base="prior", vlm="vlm")


def test_embeddings_of_another_shape_are_refused(project: Path) -> None:
    whitening = Whitening.load(project / "artifacts/whitening.safetensors")
    with pytest.raises(InputError, match="fitted on those of"):
        whitening(torch.zeros(1, 7, whitening.mean.shape[1]))


def test_two_shards_embedded_at_once_are_those_embedded_one_after_the_other(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "at-once"
    shutil.copytree(project, folder, symlinks=True)
    shutil.rmtree(folder / "artifacts" / "users")
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(SETTINGS.model_dump(mode="json"), file)
    command = [sys.executable, "-c", "from ppd.cli import main; main()", "stage", "embed", "--shard"]
    running = [subprocess.Popen([*command, shard], cwd=folder) for shard in ("s-00", "s-01")]
    assert [process.wait(300) for process in running] == [0, 0]
    for shard in ("s-00", "s-01"):
        embedded = (folder / "artifacts/users" / shard / "embeddings.parquet").read_bytes()
        assert embedded == (project / "artifacts/users" / shard / "embeddings.parquet").read_bytes()
        assert len(list((folder / "artifacts/users" / shard).iterdir())) == 1
