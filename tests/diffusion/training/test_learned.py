"""A run that learns nothing of users says so early, with the reason and what to change."""

from pathlib import Path

import pytest
import torch

from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.learned import complaint, personal_gap
from ppd.diffusion.training.run import finetune
from ppd.diffusion.training.trainer import Trainer
from tests.diffusion.tastes import SETTINGS, changed

USERS = torch.arange(40).repeat_interleave(8)


def row(own: torch.Tensor, shuffled: torch.Tensor, step: int = 100) -> dict[str, float]:
    right = {
        "accuracy": (own < 0).float().mean().item(),
        "accuracy_shuffled_user": (shuffled < 0).float().mean().item(),
    }
    found = right | personal_gap(own, shuffled, USERS)
    return {"step": step} | {f"held_out_{name}": value for name, value in found.items()}


def test_a_learning_rate_of_nothing_is_noticed_at_the_first_evaluation(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = changed(learning_rate=1e-30, evaluate_every_steps=2)
    finetune(backbone, data, still, "ppd", tmp_path / "out", tmp_path / "work", origin={})
    said = capsys.readouterr().err
    assert f"after {2 * SETTINGS.pairs_per_step} pairs nothing is known of users" in said
    assert "Raise learning_rate" in said


def test_who_learns_of_users_is_left_alone_and_who_moves_for_all_alike_hears_of_the_embedding() -> None:
    random = torch.Generator().manual_seed(0)
    learned, other = (torch.randn(len(USERS), generator=random) - shift for shift in (0.6, 0.0))
    assert complaint(row(learned, other), SETTINGS) is None
    said = complaint(row(other, torch.randn(len(USERS), generator=random)), SETTINGS)
    assert said is not None and "alike for everybody" in said and "embedding.components" in said
    assert complaint(row(other, learned, step=0), SETTINGS) is None, "before the first step nothing can be known"


def test_the_gap_is_that_of_users_and_not_of_their_pairs(backbone: StableCascadeBackbone, data: TrainingData) -> None:
    own = torch.where(USERS % 2 == 0, -1.0, 1.0)
    gap = personal_gap(own, -own, USERS)
    assert gap["user_gap"] == 0
    assert gap["user_gap_high"] > 0.25, "forty witnesses, not 320"
    found = Trainer(backbone, data, SETTINGS, "ppd").evaluate()
    assert found["held_out_user_gap"] == found["held_out_moved"] == 0, "before training all is the base"
