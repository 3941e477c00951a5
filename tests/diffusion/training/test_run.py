import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ppd.diffusion.adapter.checkpoint import load_adapter
from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.evidence import NonFiniteError
from ppd.diffusion.training.run import finetune
from ppd.diffusion.training.trainer import CHECKPOINT, Trainer
from ppd.errors import InputError
from ppd.settings import FinetuneSettings

SETTINGS = FinetuneSettings(precision="fp32", steps=4, pairs_per_step=2, micro_batch_pairs=2, checkpoint_every_steps=1)


def made_up(backbone: StableCascadeBackbone) -> TrainingData:
    random = torch.Generator().manual_seed(0)
    text = backbone.encode_captions(["a fox"])
    rows = torch.arange(6)
    pairs = Pairs(rows % 2, rows * 0, rows, rows + 6)
    return TrainingData(
        latents=torch.randn(12, 4, 4, 4, generator=random),
        text=Text(text.tokens, text.pooled),
        embeddings=torch.randn(2, 1, 3, generator=random),
        first=torch.tensor([0, 1, 2]),
        train=pairs,
        seen=pairs,
        held_out=pairs,
        pictures_hash="made up",
        content_hash="made up",
    )


def run(backbone: StableCascadeBackbone, folder: Path, settings: FinetuneSettings) -> None:
    finetune(backbone, made_up(backbone), settings, "ppd", folder / "ppd", folder / "work", origin={})


def test_a_finished_run_leaves_its_adapter_and_curve_and_nothing_to_resume(
    backbone: StableCascadeBackbone, tmp_path: Path
) -> None:
    run(backbone, tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["ppd"]
    assert len((tmp_path / "ppd" / "curve.csv").read_text().splitlines()) == 1 + SETTINGS.steps
    load_adapter(tmp_path / "ppd", backbone).detach()


@pytest.mark.parametrize("changes", [{}, {"learning_rate": 5e-4}], ids=["same settings", "other settings"])
def test_what_follows_a_killed_run_is_as_if_it_had_never_been(
    backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    settings = SETTINGS.model_copy(update=changes)
    run(backbone, tmp_path / "whole", settings)
    step, done = Trainer.train_step, []

    def dying(self: Trainer) -> dict[str, float]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(self.step)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(backbone, tmp_path / "killed", SETTINGS)

    def counting(self: Trainer) -> dict[str, float]:
        done.append(self.step)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", counting)
    fresh = StableCascadeBackbone.from_pretrained(backbone.base_id, codec=backbone.codec)
    run(fresh, tmp_path / "killed", settings)
    assert done == ([0, 1, 0, 1, 2, 3] if changes else [0, 1, 2, 3]), "only the same run is continued"
    whole, killed = (tmp_path / name / "ppd" / "adapter.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


@pytest.fixture
def stopped(backbone: StableCascadeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a run died after two of its four steps; its backbone is another one's now."""
    step = Trainer.train_step

    def dying(self: Trainer) -> dict[str, float]:
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(backbone, tmp_path / "killed", SETTINGS)
    return tmp_path / "killed"


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are trained from here on."""
    step, done = Trainer.train_step, []

    def counting(self: Trainer) -> dict[str, float]:
        done.append(self.step)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", counting)
    return done


def again(backbone: StableCascadeBackbone) -> StableCascadeBackbone:
    return StableCascadeBackbone.from_pretrained(backbone.base_id, codec=backbone.codec)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "ppd" / "adapter.safetensors")


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"micro_batch_pairs": 1}])
def test_what_only_moves_work_goes_on_from_the_checkpoint_with_the_same_weights_but_for_rounding(
    backbone: StableCascadeBackbone, stopped: Path, steps_done: list[int], tmp_path: Path, changes: dict[str, object]
) -> None:
    """What our own out-of-memory message advises costs no step."""
    run(again(backbone), stopped, SETTINGS.model_copy(update=changes))
    assert steps_done == [2, 3]
    run(again(backbone), tmp_path / "whole", SETTINGS)
    for name, weight in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(stopped)[name], weight, rtol=1e-3, atol=1e-5)
    assert not (stopped / "work").exists()


def test_another_run_keeps_the_last_checkpoint_says_in_what_it_differs_and_throws_older_ones_away_aloud(
    backbone: StableCascadeBackbone,
    stopped: Path,
    steps_done: list[int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (old,) = (stopped / "work").iterdir()
    run(again(backbone), stopped, SETTINGS.model_copy(update={"learning_rate": 5e-4}))
    said = capsys.readouterr().err
    assert f"{old.name}/{CHECKPOINT}: another run stopped at step 2 and is kept" in said
    assert f"learning_rate {SETTINGS.learning_rate:g} there, 0.0005 here" in said
    assert [path.name for path in (stopped / "work").iterdir()] == [old.name], "nothing but the other run is left"
    run(again(backbone), stopped, SETTINGS)
    assert steps_done == [0, 1, 2, 3, 2, 3], "the first run goes on with its own settings"
    run(again(backbone), tmp_path / "whole", SETTINGS)
    files = [folder / "ppd" / "adapter.safetensors" for folder in (stopped, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()

    work = stopped / "work"
    for age, name in enumerate(("newest", "older", "oldest")):
        (work / name).mkdir(parents=True)
        (work / name / CHECKPOINT).touch()
        for path in (work / name, work / name / CHECKPOINT):
            os.utime(path, (1e9 - age, 1e9 - age))
    run(again(backbone), stopped, SETTINGS)
    said = capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["newest"]
    assert "older: what other work" in said and "oldest: what other work" in said and "newest: what" not in said


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_over(
    backbone: StableCascadeBackbone,
    stopped: Path,
    steps_done: list[int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    damage: str,
) -> None:
    (checkpoint,) = (stopped / "work").glob(f"*/{CHECKPOINT}")
    content = bytearray(checkpoint.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[-100] ^= 1
    checkpoint.write_bytes(content)
    run(again(backbone), stopped, SETTINGS)
    assert steps_done == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert f"{CHECKPOINT}: damaged" in said and "training starts over" in said
    run(again(backbone), tmp_path / "whole", SETTINGS)
    files = [folder / "ppd" / "adapter.safetensors" for folder in (stopped, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_damaged_reference_errors_are_computed_again(
    backbone: StableCascadeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def finished(folder: Path) -> bytes:
        shared = {"reference_folder": tmp_path / "reference", "origin": {}}
        finetune(again(backbone), made_up(backbone), SETTINGS, "ppd", folder / "ppd", folder / "work", **shared)
        return (folder / "ppd" / "adapter.safetensors").read_bytes()

    whole = finished(tmp_path / "first")
    (errors,) = (tmp_path / "reference").iterdir()
    known = errors.read_bytes()
    errors.write_bytes(known[:-8] + bytes(8))
    capsys.readouterr()
    assert finished(tmp_path / "second") == whole
    assert f"{errors.name}: damaged" in capsys.readouterr().err
    assert errors.read_bytes() == known, "and are whole again"


def test_a_step_of_no_number_names_the_pair_and_the_user_and_can_be_run_again(
    backbone: StableCascadeBackbone, tmp_path: Path
) -> None:
    data = dataclasses.replace(made_up(backbone), user_ids=("ann", "ben"))
    data.latents[data.train.chosen[3]] = torch.nan  # pair 3 is ben's
    settings = SETTINGS.model_copy(update={"pairs_per_step": 6, "micro_batch_pairs": 6})
    with pytest.raises(NonFiniteError, match=r"latents of training pair 3 \(user ben\): 1 of the 6 pairs") as stopped:
        finetune(backbone, data, settings, "ppd", tmp_path / "ppd", tmp_path / "work", origin={})
    assert isinstance(stopped.value, InputError), "the command exits with 2, without a traceback"
    assert not (tmp_path / "ppd").exists()
    (evidence,) = (tmp_path / "work").glob("*/non-finite-0.safetensors")
    assert str(evidence) in str(stopped.value)
    trainer = Trainer(again(backbone), data, settings, "ppd")
    trainer.load_state(evidence)
    saved = load_file(evidence)
    (row,) = (saved["batch.pairs"] == 3).nonzero()
    assert saved["batch.latents_chosen"][row].isnan().all()
    assert torch.equal(saved["batch.noise"], trainer._draw().noise)
    with pytest.raises(NonFiniteError, match="step 0"):
        trainer.train_step()


def test_a_step_that_overflows_on_good_data_says_what_to_lower(backbone: StableCascadeBackbone) -> None:
    trainer = Trainer(backbone, made_up(backbone), SETTINGS, "ppd")
    with torch.no_grad():
        for weight in trainer.adapter.parameters():
            weight.fill_(1e30)
    with pytest.raises(NonFiniteError, match="All 2 pairs that it read are numbers: lower learning_rate"):
        trainer.train_step()
