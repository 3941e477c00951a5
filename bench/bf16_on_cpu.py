"""What bf16 costs on a CPU without instructions for it, and fp32, which it gets instead (`ppd.bf16_on_cpu`).

    python bench/bf16_on_cpu.py [--rounds 3]      # two to four minutes of one core

A forward and a training step (forward and backward) of 32 images through the sticker world's base beside an adapter,
in CPU seconds; once with all that this CPU can do, once as one that knows AVX2 alone, as most laptops do. Every
measurement is a process of its own, since torch asks what the CPU can do when it starts; the ways take turns. On a CPU
with the instructions bf16 is the faster way, and the one that is taken.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product

import torch
from rich.console import Console
from rich.table import Table

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.settings import Precision, load_settings

N_IMAGES, N_REPEATS = 32, 5
WAYS = ("bf16", "fp32")
MACHINES = {"this CPU": {}, "AVX2 alone": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}


def measure(precision: Precision) -> tuple[float, float]:
    """The least CPU seconds of a forward and of a training step, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = load_settings()
    base = StableCascadeBackbone.from_pretrained(settings.models.prior, precision=precision)  # just as it is told
    adapter = UserAttention.beside(base, (1, 13), settings.finetune.attention)
    adapter.attach(base)
    text = base.encode_captions(["a sticker of a fox"] * N_IMAGES)
    x = torch.randn(N_IMAGES, base.latent_channels, 16, 16)
    t, users = torch.full((N_IMAGES,), 0.8), torch.randn(N_IMAGES, *adapter.embedding_shape)

    def forward() -> None:
        with torch.inference_mode(), adapter.users(users):
            base.predict(x, t, text)

    def step() -> None:
        with adapter.users(users):
            base.predict(x, t, text).float().square().mean().backward()

    return least(forward), least(step)


def least(call: Callable[[], None]) -> float:
    call()
    taken = []
    for _ in range(N_REPEATS):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(*measure(args.way))
        return
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _, machine, way in product(range(args.rounds), MACHINES, WAYS):
        command, env = [sys.executable, __file__, "--way", way], os.environ | MACHINES[machine]
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        found.setdefault((machine, way), []).append([float(number) for number in said.split()])
    table = Table("CPU", "way", "forward, s", "training step, s", "step, times as fast as bf16")
    for (machine, way), rounds in found.items():
        forward, step = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [own[1] / one[1] for own, one in zip(found[machine, WAYS[0]], rounds, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        table.add_row(machine, way, f"{forward:.3f}", f"{step:.3f}", spread)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
