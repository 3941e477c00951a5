"""Run by test_bases.py under torchrun: train a few steps on each base and leave the adapters.

bases_in_processes.py OUT NAME=FOLDER...
"""

import sys
from pathlib import Path

import torch

from ppd.device import this_device
from ppd.diffusion.model.load import load_backbone
from ppd.diffusion.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.diffusion.test_bases import FINETUNE, choices


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
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
