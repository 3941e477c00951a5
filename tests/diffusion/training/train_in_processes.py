"""Run by test_distributed.py under torchrun: train a few steps on made-up choices; leave curve and adapter.

    train_in_processes.py BASE OUT PROCESSES [KILLED_AT]

With KILLED_AT it is the whole of `finetune`, and every process dies before that step (-1: none does).
"""

import os
import sys
import weakref
from pathlib import Path

import torch
from safetensors.torch import save_file

from ppd.device import this_device
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.run import finetune
from ppd.diffusion.training.trainer import Trainer
from ppd.settings import FinetuneSettings, LossSettings


class NoCodec:
    encoder_fingerprint = "none"

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    decode = encode


def die_before(step: int) -> None:
    train_step = Trainer.train_step

    def dying(self: Trainer) -> dict[str, float]:
        if self.step == step:
            os._exit(7)
        return train_step(self)

    Trainer.train_step = dying


def main(base: Path, out: Path, killed_at: int | None = None) -> None:
    torch.set_num_threads(1)
    backbone = StableCascadeBackbone.from_pretrained(base, codec=NoCodec(), device=this_device())
    g = torch.Generator().manual_seed(0)

    def pairs(n: int) -> Pairs:
        return Pairs(*(torch.randint(high, (n,), generator=g) for high in (5, 2, 30, 30)))

    data = TrainingData(
        latents=torch.randn(30, 4, 4, 4, generator=g),
        text=backbone.encode_captions(["a sticker of a fox", "a sticker of a tree"]),
        embeddings=torch.randn(5, 2, 6, generator=g),
        first=torch.arange(6),
        train=pairs(20),
        seen=pairs(8),
        held_out=pairs(8),
        pictures_hash="random",
        content_hash="random",
    )
    settings = FinetuneSettings(
        precision="fp32",
        steps=6,
        pairs_per_step=8,
        micro_batch_pairs=2,
        evaluate_every_steps=3,
        checkpoint_every_steps=3,
        warmup_steps=2,
        loss=LossSettings(beta=500, winner_anchor=0),
    )
    if killed_at is not None:
        die_before(killed_at)
        finetune(backbone, data, settings, "ppd", out / "ppd", out / "work", origin={})
        return
    trainer = Trainer(backbone, data, settings, "ppd", reference_folder=out / "reference")
    assert trainer.n_processes == int(sys.argv[3])
    list(trainer.train(out))
    save_file(dict(trainer.adapter.named_parameters()), out / f"adapter-{trainer.rank}.safetensors")
    in_group, went = torch.distributed.is_initialized(), list[bool]()
    weakref.finalize(trainer.denoiser, lambda: went.append(torch.distributed.is_initialized()))
    trainer.end()
    # Were the denoiser the last to own the process group, torch could wait for its thread for ever.
    assert went == [in_group] and not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[4:]))
