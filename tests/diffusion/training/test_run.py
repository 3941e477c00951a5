from pathlib import Path

import pytest
import torch

from ppd.diffusion.adapter.checkpoint import load_adapter
from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.run import finetune
from ppd.diffusion.training.trainer import Trainer
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
