import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor

from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.describe import describe
from ppd.diffusion.training.evidence import NonFiniteError
from ppd.diffusion.training.start import learning_rate
from ppd.diffusion.training.trainer import Trainer
from ppd.errors import InputError
from ppd.settings import LoraSettings, LossSettings, Method
from tests.diffusion.tastes import ALONE, BESIDE, SETTINGS, changed, run


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("method", "lora"), [("ppd", None), ("dpo", None), ("ppd", BESIDE), ("dpo", ALONE)])
def test_the_first_loss_is_ln_2_and_no_margin_is_there(
    in_either_precision: StableCascadeBackbone,
    data: TrainingData,
    tmp_path: Path,
    method: Method,
    lora: LoraSettings | None,
) -> None:
    """To the last bit: dropout is off (the checkpoint has .1), and the branch is a no-op before training."""
    _, rows = run(in_either_precision, data, tmp_path, method, loss=LossSettings(beta=5000, winner_anchor=0), lora=lora)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert rows[0]["margin"] == 0
    assert rows[0]["accuracy"] == rows[0]["seen_accuracy"] == rows[0]["held_out_accuracy"] == 0.5
    assert rows[0]["error_chosen"] == rows[0]["reference_chosen"]
    assert rows[0]["grad_norm"] > 0
    assert rows[1]["loss"] != rows[0]["loss"]


@pytest.mark.parametrize("lora", [None, BESIDE])
def test_training_changes_the_adapter_and_nothing_else(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path, lora: LoraSettings | None
) -> None:
    before = {name: weight.clone() for name, weight in backbone.unet.state_dict().items()}
    fresh = Trainer(backbone, data, changed(lora=lora), "ppd")
    initial = {name: weight.clone() for name, weight in fresh.adapter.state_dict().items()}
    fresh.adapter.detach()
    trainer, _ = run(backbone, data, tmp_path, lora=lora)
    assert same(backbone.unet.state_dict(), before)
    assert all(weight.grad is None for weight in backbone.unet.parameters())
    assert all(not torch.equal(initial[name], weight) for name, weight in trainer.adapter.state_dict().items())


@pytest.mark.slow
def test_it_learns_who_likes_what_and_the_controls_behave(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path
) -> None:
    """Opposite tastes: people's own embedding decides, for held-out people too; exchanged or pooled it cannot."""
    budget = {"steps": 150, "learning_rate": 1e-2, "evaluate_every_steps": 150, "evaluation_pairs": 16}
    _, ppd = run(backbone, data, tmp_path / "ppd", **budget)
    assert ppd[-1]["seen_accuracy"] > 0.9
    assert ppd[-1]["held_out_accuracy"] > 0.9
    assert ppd[-1]["held_out_accuracy_shuffled_user"] < 0.7
    assert ppd[-1]["loss"] < 0.5
    _, dpo = run(backbone, data, tmp_path / "dpo", "dpo", **budget)
    assert abs(dpo[-1]["held_out_accuracy"] - 0.5) < 0.3
    assert dpo[-1]["held_out_accuracy"] == dpo[-1]["held_out_accuracy_shuffled_user"]
    _, sft = run(backbone, data, tmp_path / "sft", "sft", **budget)
    assert sft[-1]["error_chosen"] < 0.9 * sft[0]["error_chosen"]


@pytest.mark.parametrize("options", [{}, {"winner_anchor": 1.0, "safeguard": 0.1}])
def test_accumulation_gives_the_gradient_of_the_whole_batch(
    backbone: StableCascadeBackbone, data: TrainingData, options: dict[str, float]
) -> None:
    def gradients(micro_batch_pairs: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        settings = changed(
            loss=LossSettings.model_validate({"winner_anchor": 0} | options), micro_batch_pairs=micro_batch_pairs
        )
        trainer = Trainer(backbone, data, settings, "ppd")
        with torch.no_grad():
            for name, weight in trainer.adapter.named_parameters():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))), alpha=0.1)
        stats = trainer.train_step()
        trainer.adapter.detach()
        return {name: weight.grad for name, weight in trainer.adapter.named_parameters()}, stats

    whole, stats = gradients(8)
    cut, cut_stats = gradients(2)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-5)
        assert gradient.abs().max() > 1e-4
    assert cut_stats == pytest.approx(stats, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("change", [{"ema_decay": 0.0}, {"ema_decay": 0.9}, {"lora": ALONE}])
@pytest.mark.parametrize("method", ["ppd", "sft"])
def test_n_plus_m_steps_are_n_steps_resumed_for_m_bit_for_bit(
    in_either_precision: StableCascadeBackbone,
    data: TrainingData,
    tmp_path: Path,
    method: Method,
    change: dict[str, object],
) -> None:
    backbone = in_either_precision
    whole, _ = run(backbone, data, tmp_path / "whole", method, **change)

    killed = Trainer(backbone, data, changed(**change), method)
    for row in killed.train(tmp_path / "cut"):
        if row["step"] == 4:  # the last checkpoint is that of 4 steps: one row of the curve is ahead of it
            break
    killed.adapter.detach()
    set_seed(123)  # whatever the global generators do in between
    resumed = Trainer(backbone, data, changed(**change), method)
    steps = [row["step"] for row in resumed.train(tmp_path / "cut")]
    assert steps == [4, 5]
    assert same(resumed.state_dict(), whole.state_dict())
    assert same(resumed.final_weights(), whole.final_weights())
    assert (tmp_path / "cut" / "curve.csv").read_text() == (tmp_path / "whole" / "curve.csv").read_text()


def test_a_checkpoint_of_another_run_is_refused(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path
) -> None:
    run(backbone, data, tmp_path)
    other = Trainer(backbone, data, changed(learning_rate=1e-4), "ppd")
    with pytest.raises(InputError, match="checkpoint of another run"):
        next(other.train(tmp_path))


def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path
) -> None:
    trainer = Trainer(backbone, data, SETTINGS, "ppd")
    trainer.train_step()
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    data.latents[data.train.chosen] = torch.nan
    with pytest.raises(NonFiniteError, match="step 1: loss nan"):
        trainer.train_step()
    assert same(trainer.state_dict(), before)


def test_reference_errors_are_computed_once_for_all_runs_with_the_same_draws(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = 0
    predict = backbone.predict

    def counted(*args: object) -> Tensor:
        nonlocal forwards
        forwards += 1
        return predict(*args)

    monkeypatch.setattr(backbone, "predict", counted)

    def run_here(
        method: Method, folder: Path | None, data: TrainingData = data, **changes: object
    ) -> tuple[int, dict[str, Tensor]]:
        trainer = Trainer(backbone, data, changed(**changes), method, reference_folder=folder)
        before = forwards
        for _ in range(SETTINGS.steps):
            trainer.train_step()
        trainer.reference.save()
        trainer.adapter.detach()
        return forwards - before, trainer.state_dict()

    cold, weights = run_here("ppd", tmp_path)
    warm, same_weights = run_here("ppd", tmp_path)
    assert (cold, warm) == (12, 6)
    assert same(weights, same_weights)
    assert run_here("dpo", tmp_path, learning_rate=1e-4)[0] == 6
    others = replace(data, embeddings=-data.embeddings, content_hash="other embeddings")
    assert run_here("ppd", tmp_path, others)[0] == 6
    assert run_here("ppd", tmp_path, replace(data, pictures_hash="other pictures"))[0] == 12
    assert run_here("ppd", tmp_path, seed=1)[0] == 12
    run_here("ppd", tmp_path, steps=4)
    assert run_here("ppd", tmp_path)[0] == 6  # a shorter run has not cut what a longer one knew


def test_user_dropout_makes_a_pair_the_base(backbone: StableCascadeBackbone, data: TrainingData) -> None:
    trainer = Trainer(backbone, data, changed(user_dropout=1.0), "ppd")
    for block in trainer.adapter.blocks.values():
        torch.nn.init.normal_(block.to_v.weight)
    stats = trainer.train_step()
    assert stats["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert stats["grad_norm"] == 0


def test_the_learning_rate_warms_up_and_decays() -> None:
    settings = changed(steps=10, warmup_steps=4, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert learning_rate(9, changed(steps=10, decay="constant", learning_rate=1.0)) == 1.0


def test_the_curve_is_a_row_a_step_with_numbers_where_they_were_measured(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path
) -> None:
    run(backbone, data, tmp_path)
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    assert [bool(row["held_out_accuracy"]) for row in rows] == [True, False, False, True, False, True]


def test_the_run_explains_itself(backbone: StableCascadeBackbone, data: TrainingData) -> None:
    trainer = Trainer(backbone, data, changed(micro_batch_pairs=2), "ppd")
    said = describe(trainer)
    assert said["pairs a step"] == "8 = 2 at once x 4 accumulated x 1 processes"
    assert said["steps"].startswith("6 from 0: 2.40 epochs of 20 pairs")
    assert said["trained parameters"].startswith(f"{2 * 6 * 16 + 8 * 2 * (16 + 24 + 24 + 16):,} beside 4")
    assert said["base"].endswith(", fp32")
    assert trainer.step == 0
    trainer.adapter.detach()
    said = describe(other := Trainer(backbone, data, changed(precision="bf16"), "ppd"))
    assert said["base"].endswith(", fp32, as this CPU has no instructions for bf16")
    other.adapter.detach()
    said = describe(Trainer(backbone, data, changed(lora=BESIDE), "ppd"))
    assert said["trained parameters"].endswith("beside 4 attention blocks and in 16 linear layers at rank 2")


def test_what_does_not_fit_says_what_to_change(
    backbone: StableCascadeBackbone, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(backbone, data, SETTINGS, "ppd")

    def full(**inputs: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(backbone.unet, "forward", full)
    with pytest.raises(InputError, match=r"8 pairs does not fit .* Lower micro_batch_pairs"):
        describe(trainer)


@pytest.mark.parametrize(
    "change", [{"gradient_checkpointing": True}, {"gradient_checkpointing": 0.5}, {"fresh_epochs": 1}]
)
def test_options_that_only_change_the_cost_leave_the_first_steps_alone(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path, change: dict[str, object]
) -> None:
    plain, _ = run(backbone, data, tmp_path / "plain", steps=2)
    other, _ = run(backbone, data, tmp_path / "other", steps=2, **change)
    for name, weight in load_file(tmp_path / "plain" / "checkpoint.safetensors").items():
        torch.testing.assert_close(load_file(tmp_path / "other" / "checkpoint.safetensors")[name], weight)
    assert plain.step == other.step == 2


def test_alone_nothing_of_float64_is_sent_to_the_device(
    backbone: StableCascadeBackbone, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(backbone, data, SETTINGS, "ppd")
    monkeypatch.setattr(trainer.accelerator, "gather", lambda *_, **__: pytest.fail("an Apple GPU knows no float64"))
    assert trainer.train_step()["loss"] == pytest.approx(math.log(2))
    trainer.adapter.detach()
