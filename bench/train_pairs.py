"""Pairs a second of training: ours against a plain implementation of the public Diffusion-DPO script's way.

    python bench/train_pairs.py [--base data/models/prior] [--pairs 24] [--rounds 5] [--threads 1] [--compile]

All train beside the same nano Stable Cascade with the same loss and the same batches, in this process, in turns. The
plain way keeps a second, frozen copy of the network as the reference, encodes images and captions at every step, and
sends winners and losers through the network apart; once it trains our adapter, once the whole network, as the public
script does. The first way is what the ratios are over. Without a trained base, one of the same shape with random
weights is used: the arithmetic is the same. Times are CPU seconds of this process, so a busy machine changes no
ratio. Prints a table and writes bench/results/train_pairs.json.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMWuerstchenScheduler
from plain_way import plain_step
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ppd.diffusion.model.codec import ImageCodec
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.pretrain.latent_pool import CAPTIONS
from ppd.pretrain.prior import PriorSettings, build_prior, build_text_encoder, caption_tokenizer
from ppd.settings import FinetuneSettings

RESULT = Path(__file__).parent / "results" / "train_pairs.json"
N_IMAGES, N_PEOPLE, N_PAIRS, PX = 512, 64, 4096, 64


def random_base(folder: Path) -> Path:
    """The nano Stable Cascade's shape with random weights, in the hub's layout."""
    torch.manual_seed(0)
    settings, tokenizer = PriorSettings(), caption_tokenizer(CAPTIONS)
    unet = build_prior(settings, settings.codec.latent_channels)
    torch.nn.init.normal_(unet.clf[1].weight, std=0.02)
    scheduler = DDPMWuerstchenScheduler()
    scheduler.register_to_config(prediction_type="v_prediction")
    parts = {
        "prior": unet,
        "scheduler": scheduler,
        "text_encoder": build_text_encoder(settings, tokenizer),
        "tokenizer": tokenizer,
        "codec": ImageCodec(settings.codec.latent_channels),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def random_choices(backbone: StableCascadeBackbone) -> tuple[TrainingData, Tensor, list[str]]:
    """Random images, people and choices: the data, its images [I, 3, px, px] and its captions."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(N_IMAGES, 3, PX, PX, generator=g)
    captions = list(CAPTIONS[:-1])

    def pairs(n: int) -> Pairs:
        rows = [torch.randint(high, (n,), generator=g) for high in (N_PEOPLE, len(captions), N_IMAGES, N_IMAGES)]
        return Pairs(*rows)

    data = TrainingData(
        latents=torch.cat([backbone.encode_images(chunk) for chunk in images.split(64)]),
        text=backbone.encode_captions(captions),
        embeddings=torch.randn(N_PEOPLE, 1, 128, generator=g),
        first=torch.arange(N_PEOPLE + 1),
        train=pairs(N_PAIRS),
        seen=pairs(0),
        held_out=pairs(0),
        pictures_hash="random",
        content_hash="random",
    )
    return data, images, captions


def our_step(
    backbone: StableCascadeBackbone, data: TrainingData, settings: FinetuneSettings, known_steps: int = 0
) -> Callable[[int], None]:
    """Our training step; with `known_steps`, an earlier run has left the reference errors of so many steps."""
    trainer = Trainer(backbone, data, settings, "ppd")
    for step in range(known_steps):
        trainer.reference.put(step, slice(None), torch.full((settings.pairs_per_step, 2), 0.5))
    trainer.reference.collect()

    def step(index: int) -> None:
        trainer.train_step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a trained nano Stable Cascade; random weights without it")
    parser.add_argument("--pairs", type=int, default=24, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=5, help="turns that are timed, of two steps each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile (a minute or two more)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        base = args.base or random_base(Path(scratch))
        result = measure(base, args.pairs, args.rounds, with_compile=args.compile)
    result |= {"threads": args.threads, "machine": platform.processor() or platform.machine()}
    result |= {"torch": torch.__version__, "pairs_per_step": args.pairs, "base": str(args.base or "random weights")}
    show(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def measure(base: Path, n_pairs: int, rounds: int, *, with_compile: bool) -> dict[str, object]:
    """CPU seconds of every way, taken in turns: one backbone each, because an adapter is attached to each."""
    steps_each = 2
    known = rounds * steps_each + 1
    ways: dict[str, Callable[[int], None]] = {}
    settings = FinetuneSettings(precision="fp32", steps=10_000, pairs_per_step=n_pairs, micro_batch_pairs=n_pairs)

    def backbone(precision: str = "fp32") -> StableCascadeBackbone:
        return StableCascadeBackbone.from_pretrained(base, precision=precision)

    data, images, captions = random_choices(backbone())
    for precision in ("fp32", "bf16"):
        for trains, whole_network in (("adapter", False), ("whole network", True)):
            ways[f"plain, {trains}, {precision}"] = plain_step(
                backbone(precision), data, images, captions, settings, whole_network=whole_network
            )
    for precision in ("fp32", "bf16"):
        ways[f"ours, first run, {precision}"] = our_step(backbone(precision), data, settings)
        ways[f"ours, reference errors known, {precision}"] = our_step(backbone(precision), data, settings, known)
    if with_compile:
        compiled = settings.model_copy(update={"compile": True})
        ways["ours, first run, bf16, compiled"] = our_step(backbone("bf16"), data, compiled)
        ways["ours, reference errors known, bf16, compiled"] = our_step(backbone("bf16"), data, compiled, known)
    seconds = dict.fromkeys(ways, 0.0)
    for step in ways.values():
        step(0)
    for turn in range(rounds):
        for name, step in ways.items():
            start = time.process_time()
            for i in range(steps_each):
                step(1 + turn * steps_each + i)
            seconds[name] += time.process_time() - start
    rates = {name: n_pairs * rounds * steps_each / spent for name, spent in seconds.items()}
    plain = next(iter(rates.values()))
    return {"ways": [{"way": name, "pairs_per_cpu_s": rate, "ratio": rate / plain} for name, rate in rates.items()]}


def show(result: dict[str, object]) -> None:
    table = Table("way", "pairs / CPU s", "x plain", title="Training, nano Stable Cascade")
    for way in result["ways"]:
        table.add_row(way["way"], f"{way['pairs_per_cpu_s']:.1f}", f"{way['ratio']:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
