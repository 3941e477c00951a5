"""Every stage at the paper's sizes with random weights, on one GPU, in six minutes; no download.

    python bench/paper_scale.py --size full                       # one H100 or H200
    python bench/paper_scale.py --size full --parts train --limit train=300
    python bench/paper_scale.py --size tiny                       # the same code on any machine, some minutes
    python bench/paper_scale.py --count                           # parameters and FLOPs alone, no weight

Training: an adapter beside Stage C (3.59 B at full, 1.03 B at lite) in bf16, by `Trainer.train_step` itself, in every
form that the settings offer, and where one step goes (`paper_scale_training.CASES`). The plain way is the public
Diffusion-DPO script's: a second copy of the network as the reference, images and captions encoded at every step,
winners and losers in separate forwards under autocast; it trains our adapter, so that only the way differs. SDXL and
Z-Image likewise, at one batch each (`paper_scale_bases`).

Embedding: four pairs of a user told to a LLaVA-OneVision (7B at lite and full) in the full prompt, read at its end; and
with words written first. Encoding, sampling and judging as the stages do it.

The floor of a pair is the forward of both images and the backward through activations; `share of peak` is the floor,
and with it the reference's forward in a first run, over the device's published dense bf16 peak. What checkpointing
computes again counts for nothing.

Each part runs in a process of its own, is ended when its time is up, and leaves what it has measured: the file
bench/results/paper_scale_SIZE.json is written anew after every row, and the rows of parts that are not run stay.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableCascadeUNet
from full_size import DECODER, PRIOR, PRIOR_LITE
from paper_scale_bases import measure_bases
from paper_scale_networks import N_TOKENS, stable_cascade
from paper_scale_stages import measure_embed, measure_encode, measure_judge, measure_sample
from paper_scale_training import CASES, FIRST, PLAIN, Case, measure_plain, measure_training
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from ppd.device import this_device
from ppd.diffusion.model import repeated_blocks
from ppd.diffusion.model.efficientnet import LATENT_CHANNELS, EfficientNetEncoder
from ppd.files import atomic_path

ROOT = Path(__file__).parents[1]
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 with fp32 accumulation, from the makers' data sheets."""
LIMITS = {"train": 165.0, "plain": 40.0, "embed": 65.0, "bases": 75.0, "sample": 45.0, "judge": 35.0, "encode": 25.0}
"""Parts, most important first, and the seconds that each may take; at the size tiny as long as it needs."""
TINY_CASES = (Case(2), Case(2, known=False, checkpointing=0.5), Case(1, compile=False, trial="cuda graph"))


def measure(part: str, size: str, steps: int) -> Iterator[dict[str, Any]]:
    """The rows of one part, in this process."""
    device, tiny = this_device(), size == "tiny"
    if tiny:
        repeated_blocks.BACKEND = "eager"  # all of compiling but the code, which takes a CPU minutes
    side = 3 if tiny else 24
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "train": lambda: measure_training(stable_cascade(size), device, steps, TINY_CASES if tiny else CASES),
        "plain": lambda: measure_plain(device, size, min(steps, 2), 32 * side),
        "embed": lambda: measure_embed(device, size, (1, 2, 12) if tiny else (1, 8, 32), 8 if tiny else 128),
        "bases": lambda: measure_bases(device, size, steps),
        "sample": lambda: measure_sample(device, size, (1, 2) if tiny else (1, 4), side),
        "judge": lambda: measure_judge(device, size, 2 if tiny else 16),
        "encode": lambda: measure_encode(device, 2 if tiny else 32, 32 * side),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    for row in parts[part]():
        yield rated(row | {"part": part, "device": name})


def rated(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what follows from its seconds: rates, and the share of the device's peak."""
    if "error" in row:
        return row
    done = row.pop("done", row["n"])
    rate = done / row["seconds"]
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in row["device"]), None)
    floor, counted = row.get("floor_tflop_each"), row.pop("flops_each", 0) / 1e12
    if row["way"].startswith("ours") and floor is not None:
        counted = floor * (1.5 if row["way"].startswith(FIRST) else 1)
    return row | {
        "per_second": rate,
        "range": [done / row.pop("slowest"), done / row.pop("fastest")],
        "peak_gb": row.pop("peak_bytes") / 1e9,
        "tflop_each": counted,
        "share_of_peak": None if peak is None or not counted else counted * 1e12 * rate / peak,
        "floor_per_second": None if peak is None or floor is None else peak / floor / 1e12,
    }


def run_part(part: str, limit: float, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of a part as they come from a process of its own, which is ended after `limit` seconds."""
    command = [sys.executable, __file__, "--size", args.size, "--steps", str(args.steps), "--part", part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        end = threading.Timer(limit, process.kill)
        end.start()
        for line in process.stdout or ():
            if line.startswith('{"part"'):
                yield json.loads(line)
        end.cancel()


def count() -> None:
    """Print parameters and forward FLOPs of one image through the published networks, without a weight."""
    table = Table("network, one image", "parameters", "TFLOP a forward", title="Counted on the meta device")
    with torch.device("meta"):
        t, pooled, noisy = torch.empty(1), torch.empty(1, 1, 1280), torch.empty(1, LATENT_CHANNELS, 24, 24)
        drawn = torch.empty(1, 4, 256, 256)
        words = {"clip_text": torch.empty(1, N_TOKENS, 1280), "clip_img": torch.empty(1, 1, 768)}
        decoded = {"effnet": noisy, "pixels": torch.empty(1, 3, 8, 8)}
        networks: dict[str, tuple[torch.nn.Module, Callable[[Any], object]]] = {
            "Stage C": (StableCascadeUNet(**PRIOR), lambda net: net(noisy, t, pooled, **words)),
            "Stage C, lite": (StableCascadeUNet(**PRIOR_LITE), lambda net: net(noisy, t, pooled, **words)),
            "Stage B": (StableCascadeUNet(**DECODER), lambda net: net(drawn, t, pooled, **decoded)),
            "image encoder": (EfficientNetEncoder(), lambda net: net(torch.empty(1, 3, 768, 768))),
        }
        for name, (network, forward) in networks.items():
            with FlopCounterMode(display=False) as counter:
                forward(network)
            n = sum(weight.numel() for weight in network.parameters())
            table.add_row(name, f"{n:,}", f"{counter.get_total_flops() / 1e12:.3f}")
    Console().print(table)


def show(result: Mapping[str, Any]) -> None:
    """Print the rows, and where a step goes."""
    console = Console(width=150)
    rows = result["ways"]
    plain = {
        (row["part"] == "bases" and row["base"], row["n"]): row["per_second"]
        for row in rows
        if row["way"] == PLAIN and "error" not in row
    }
    head = ("at once", "ckpt", "compiled", "a second", "range", "x plain", "peak GB", "of the peak", "waits")
    table = Table("way", *head)
    for row in rows:
        base = row["part"] == "bases" and row["base"]
        name = f"{f'{base}: ' if base else ''}{row['way']} ({row['unit']})"
        form = [str(row["n"]), str(row.get("checkpointing", "")), row.get("compiled", "")]
        if "error" in row:
            table.add_row(name, *form, row["error"][:60])
            continue
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        known = row["unit"] == "pairs" and (base, row["n"]) in plain
        ratio = f"{row['per_second'] / plain[base, row['n']]:.2f}" if known else ""
        spread = "{:.3g}–{:.3g}".format(*row["range"])
        waits = str(row.get("waits_a_step", ""))
        table.add_row(name, *form, f"{row['per_second']:.3g}", spread, ratio, f"{row['peak_gb']:.1f}", share, waits)
    console.print(table)
    for row in rows:
        if "where" in row:
            console.print(f"Where a step of {row['n']} pairs goes ({row['way']}, {row['where']['wall_ms']:.0f} ms):")
            for kind, share in row["where"]["share"].items():
                console.print(f"  {kind}: {row['where']['ms'][kind]:.0f} ms, {share:.0%}")
            for kernel in row["where"]["longest"]:
                console.print(f"    {kernel['ms']:7.1f} ms  {kernel['name']}", highlight=False, markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "lite", "full"), default="tiny")
    parser.add_argument("--parts", default=",".join(LIMITS), help="which of %(default)s, in this order")
    parser.add_argument("--limit", action="append", default=[], metavar="PART=SECONDS", help="another limit of a part")
    parser.add_argument("--steps", type=int, default=4, help="training steps that are timed, after two that are not")
    parser.add_argument("--out", type=Path, help="the file to write; default bench/results/paper_scale_SIZE.json")
    parser.add_argument("--count", action="store_true", help="only count parameters and FLOPs, and stop")
    parser.add_argument("--rows", type=int, nargs="+", help="only the stages that read the log: bench/log_scale.py")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rows:
        command = [sys.executable, str(ROOT / "bench/log_scale.py"), "--rows", *map(str, args.rows)]
        subprocess.run(command, check=True)
        return
    if args.count:
        count()
        return
    if args.part:
        for row in measure(args.part, args.size, args.steps):
            print(json.dumps({"part": args.part} | row), flush=True)
        return
    limits = dict.fromkeys(LIMITS, 900.0) if args.size == "tiny" else dict(LIMITS)
    limits |= {part: float(seconds) for part, seconds in (limit.split("=") for limit in args.limit)}
    parts = [part for part in LIMITS if part in args.parts.split(",")]
    out = args.out or ROOT / "bench/results" / f"paper_scale_{args.size}.json"
    before = json.loads(out.read_text())["ways"] if out.is_file() else []
    ways = [row for row in before if row["part"] not in parts]
    result: dict[str, Any] = {"ways": ways, "torch": torch.__version__, "seconds": {}}
    result |= {"settings": {"size": args.size, "steps": args.steps, "limits": {part: limits[part] for part in parts}}}
    out.parent.mkdir(exist_ok=True)
    said = Console(stderr=True)
    for part in parts:
        began = time.perf_counter()
        for row in run_part(part, limits[part], args):
            ways.append(row)
            result["device"] = row["device"]
            result["seconds"][part] = time.perf_counter() - began
            with atomic_path(out) as fresh:
                fresh.write_text(json.dumps(result, indent=2) + "\n")
            said.print(f"{part}, {result['seconds'][part]:.0f} s: {row['way']}, {row['n']} at once", soft_wrap=True)
    show(result)


if __name__ == "__main__":
    main()
