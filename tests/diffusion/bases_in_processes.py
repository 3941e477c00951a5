"""Settings and choices of test_bases.py. Run by it under torchrun: train a few steps on each base, leave the adapters.

bases_in_processes.py OUT NAME=FOLDER...
"""

import sys
from pathlib import Path

import torch

from ppd.device import this_device
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.settings import FinetuneSettings, LossSettings, UserAttentionSettings

ROWS, DIM, SIDE = 2, 6, 8
LONG = " ".join(["a sticker of a fox of a tree of a cat"] * 4)
CAPTIONS = ["a sticker of a fox", "a cat", LONG]
SMALL = UserAttentionSettings(tokens_per_row=2, token_dim=8)
FINETUNE = FinetuneSettings(
    precision="fp32",
    steps=4,
    pairs_per_step=4,
    micro_batch_pairs=2,
    learning_rate=3e-3,
    warmup_steps=1,
    evaluate_every_steps=4,
    checkpoint_every_steps=2,
    evaluation_pairs=4,
    attention=SMALL,
    loss=LossSettings(beta=500, winner_anchor=0),
)


def choices(backbone: Backbone) -> TrainingData:
    g = torch.Generator().manual_seed(0)

    def pairs(n: int) -> Pairs:
        return Pairs(*(torch.randint(high, (n,), generator=g) for high in (5, 3, 30, 30)))

    return TrainingData(
        latents=torch.randn(30, 4, SIDE, SIDE, generator=g),
        text=backbone.encode_captions(CAPTIONS),
        embeddings=torch.randn(5, ROWS, DIM, generator=g),
        first=torch.arange(6),
        train=pairs(20),
        seen=pairs(4),
        held_out=pairs(4),
        pictures_hash="random",
        content_hash="random",
    )


def main(out: Path, *bases: str) -> None:
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    for base in bases:
        name, _, folder = base.partition("=")
        backbone = load_backbone(folder, device=this_device())
        trainer = Trainer(backbone, choices(backbone), FINETUNE, "ppd")
        for _ in range(FINETUNE.steps):
            trainer.train_step()
        torch.save(dict(trainer.adapter.named_parameters()), out / f"{name}-{trainer.rank}.pt")
        trainer.adapter.detach()
        trainer.release()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
