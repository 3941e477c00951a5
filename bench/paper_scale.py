"""Training and embedding at the paper's sizes, random weights: `python bench/paper_scale.py --size full` on a GPU.

    python bench/paper_scale.py [--size tiny|lite|full] [--pairs 1] [--steps 3] [--rounds 1] [--checkpointing]
    python bench/paper_scale.py --count

Training: an adapter beside Stage C (3.59 B at full, 1.03 B at lite) in bf16. The plain way is the public Diffusion-DPO
script's: a second copy of the network as the reference, images and captions encoded at every step, winners and losers
in separate forwards; it trains our adapter, so that only the way differs. Each way runs in a process of its own, so
that its peak memory is its own: device memory on a GPU, resident memory on a CPU. FLOPs are those that PyTorch counts
in one step; their share is of the device's published dense bf16 peak. The floor is the forward and the backward of the
network for both images and nothing else, at that peak.

Embedding: four pairs of a person told to a LLaVA-OneVision (7B at lite and full) in the full prompt, read at its end;
and with 1,024 words written first, which random weights never cut short: the most that a profile can cost.

`--size tiny` runs anywhere, in about a minute. Seconds are of wall time on a GPU and of CPU time elsewhere. Prints
tables and writes bench/results/paper_scale_SIZE.json.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableCascadeUNet
from full_size import BIG_G, DECODER, LLAVA_7B, PRIOR, PRIOR_LITE, TINY, TINY_CLIP, TINY_LLAVA
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_pairs import our_step, plain_step
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    Qwen2Config,
    SiglipVisionConfig,
)

from ppd.device import this_device
from ppd.diffusion.model.efficientnet import LATENT_CHANNELS, EfficientNetEncoder
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.pretrain.text import caption_tokenizer
from ppd.pretrain.vlm_architecture import TEMPLATE, build_tokenizer
from ppd.settings import EmbeddingSettings, load_settings
from ppd.users.embeddings import VlmRef
from ppd.users.support import Pair
from ppd.vlm.embedding import embed
from ppd.vlm.processor import ImageTextProcessor
from ppd.vlm.transformers_backend import TransformersVlm

ROOT = Path(__file__).parents[1]
WAYS = ("plain", "ours, first run", "ours, reference errors known", "embed, prompt read", "embed, profile written")
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 with fp32 accumulation, from the makers' data sheets."""
N_IMAGES, N_PEOPLE, N_PAIRS = 16, 8, 4096
CAPTIONS = ["a sticker of a fox", "a sticker of a cat"]


class Encoder:
    """The codec's encoding half: all that training at this scale could ask for."""

    def __init__(self, device: torch.device) -> None:
        self.encoder = EfficientNetEncoder().eval().requires_grad_(False).to(device)

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode(self, *_: object) -> Tensor:
        raise NotImplementedError


def random_backbone(size: str, device: torch.device) -> StableCascadeBackbone:
    """Stage C and CLIP's text encoder of a size, with random weights."""
    torch.manual_seed(0)
    tokenizer = caption_tokenizer(CAPTIONS)
    clip = TINY_CLIP if size == "tiny" else BIG_G
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **clip,
    )
    with device:
        unet = StableCascadeUNet(**{"tiny": TINY, "lite": PRIOR_LITE, "full": PRIOR}[size]).to(torch.bfloat16)
        text_encoder = CLIPTextModelWithProjection(text)
    return StableCascadeBackbone(unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, codec=Encoder(device))


def random_choices(backbone: StableCascadeBackbone, size: str) -> tuple[TrainingData, Tensor]:
    """Random people and choices as the training reads them, and the images [I, 3, px, px] as the plain way does."""
    g = torch.Generator().manual_seed(0)
    side = 6 if size == "tiny" else 24
    rows = [torch.randint(high, (N_PAIRS,), generator=g) for high in (N_PEOPLE, len(CAPTIONS), N_IMAGES, N_IMAGES)]
    none = Pairs(*(row[:0] for row in rows))
    text = backbone.encode_captions(CAPTIONS)
    data = TrainingData(
        latents=torch.randn(N_IMAGES, LATENT_CHANNELS, side, side, generator=g).half(),
        text=text.to(torch.device("cpu")),
        embeddings=torch.randn(N_PEOPLE, 4, 256, generator=g),
        first=torch.arange(N_PEOPLE + 1),
        train=Pairs(*rows),
        seen=none,
        held_out=none,
        content_hash="random",
    )
    return data, torch.rand(N_IMAGES, 3, 32 * side, 32 * side, generator=g)


def training(way: str, args: argparse.Namespace, device: torch.device) -> tuple[Callable[[int], None], dict[str, Any]]:
    """A training step of one way, and what is known of the network."""
    backbone = random_backbone(args.size, device)
    data, images = random_choices(backbone, args.size)
    settings = load_settings(ROOT / "params.paper.yaml").finetune.model_copy(
        update={
            "pairs_per_step": args.pairs,
            "micro_batch_pairs": args.pairs,
            "gradient_checkpointing": args.checkpointing,
        }
    )
    facts = {"parameters": sum(weight.numel() for weight in backbone.unet.parameters())}
    facts["floor_flops_per_pair"] = 2 * floor_flops(backbone, data)
    if way == "plain":
        if args.checkpointing:
            backbone.enable_gradient_checkpointing()
        return plain_step(backbone, data, images.to(device), CAPTIONS, settings, whole_network=False), facts
    backbone.codec.encoder.to("cpu")
    backbone.text_encoder.to("cpu")
    known = args.steps + 2 if way == "ours, reference errors known" else 0
    return our_step(backbone, data, settings, known), facts


def floor_flops(backbone: StableCascadeBackbone, data: TrainingData) -> int:
    """FLOPs of a forward and a backward through activations of one image: twice the forward."""
    x_t, t = data.latents[:1].float().to(backbone.device), torch.ones(1, device=backbone.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone.predict(x_t, t, data.text[:1].to(backbone.device))
    return 2 * counter.get_total_flops()


def random_vlm(size: str, device: torch.device, batch_size: int) -> TransformersVlm:
    """A LLaVA-OneVision with random weights and the sticker world's tokenizer, which cuts a prompt in words too."""
    torch.manual_seed(0)
    sizes = TINY_LLAVA if size == "tiny" else LLAVA_7B
    px, patch = sizes["vision"]["image_size"], sizes["vision"]["patch_size"]
    tokenizer = build_tokenizer()
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**sizes["vision"], vision_use_head=False),
        text_config=Qwen2Config(**sizes["text"], bos_token_id=None, pad_token_id=tokenizer.pad_token_id),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[px, px]],
    )
    with device:
        model = LlavaOnevisionForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = sizes["text"]["vocab_size"] - 1
    processor = ImageTextProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": px, "width": px}, image_grid_pinpoints=[[px, px]]
        ),
        tokenizer=tokenizer,
        num_image_tokens=(px // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    return TransformersVlm(model, processor, ref=VlmRef("random weights", "random"), batch_size=batch_size)


def embedding(way: str, args: argparse.Namespace, device: torch.device) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Embeds `--people` people once a call."""
    vlm = random_vlm(args.size, device, args.people)
    written = {"read": "answer-end", "max_new_tokens": 64 if args.size == "tiny" else 1024}
    settings = EmbeddingSettings(
        prompt="full-1",
        rows=(-4, -3, -2, -1),
        **(written if way == "embed, profile written" else {"max_new_tokens": 0}),
    )
    supports = [[Pair(CAPTIONS[0], picture(), picture()) for _ in range(4)] for _ in range(args.people)]

    def step(index: int) -> None:
        embed(vlm, supports, settings)

    return step, {"parameters": sum(weight.numel() for weight in vlm.model.parameters())}


def picture() -> bytes:
    """An encoded image that differs from every other."""
    buffer = io.BytesIO()
    Image.fromarray(torch.randint(256, (512, 512, 3), dtype=torch.uint8).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Callable[[], float]]:
    """Seconds since the block began: wall time on a GPU, whose work is waited for; CPU time elsewhere."""

    def now() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    start = now()
    yield lambda: now() - start


def measure(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, its FLOPs and the peak memory, in this process."""
    device = this_device()
    step, facts = (embedding if way.startswith("embed") else training)(way, args, device)
    with FlopCounterMode(display=False) as counter:
        step(0)
    with stopwatch(device) as seconds:
        for index in range(args.steps):
            step(1 + index)
        took = seconds() / args.steps
    if device.type == "cuda":
        peak, name = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device)
    else:
        peak, name = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "cpu"
    return facts | {"seconds": took, "flops": counter.get_total_flops(), "peak_bytes": peak, "device": name}


def summary(way: str, runs: list[Mapping[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Rates over the rounds: the median, and the range."""
    n = args.people if way.startswith("embed") else args.pairs
    rates = [n / run["seconds"] for run in runs]
    rate, last = statistics.median(rates), runs[-1]
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in last["device"]), None)
    return {
        "way": way,
        "per_second": rate,
        "range": [min(rates), max(rates)],
        "peak_gb": max(run["peak_bytes"] for run in runs) / 1e9,
        "tflop_each": last["flops"] / n / 1e12,
        "share_of_peak": None if peak is None else last["flops"] / n * rate / peak,
        "floor_per_second": None if peak is None or "floor_flops_per_pair" not in last
        else peak / last["floor_flops_per_pair"],
        "floor_tflop_each": last.get("floor_flops_per_pair", 0) / 1e12 or None,
        "parameters": last["parameters"],
        "device": last["device"],
    }  # fmt: skip


def count() -> None:
    """Print parameters and forward FLOPs of one image through the published networks, without a weight."""
    table = Table("network, one image", "parameters", "TFLOP a forward", title="Counted on the meta device")
    with torch.device("meta"):
        t, pooled, noisy = torch.empty(1), torch.empty(1, 1, 1280), torch.empty(1, LATENT_CHANNELS, 24, 24)
        drawn = torch.empty(1, 4, 256, 256)
        words = {"clip_text": torch.empty(1, 77, 1280), "clip_img": torch.empty(1, 1, 768)}
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
    console = Console(width=130)
    for title, kind in (("Training: pairs", "pairs"), ("Embedding: people", "people")):
        rows = [row for row in result["ways"] if row["way"].startswith("embed") == (kind == "people")]
        table = Table(title, f"{kind} / s", "range", "x", "peak GB", "TFLOP each", "share of peak")
        for row in rows:
            share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
            table.add_row(
                row["way"],
                f"{row['per_second']:.3g}",
                "{:.3g}–{:.3g}".format(*row["range"]),
                f"{row['per_second'] / rows[0]['per_second']:.2f}",
                f"{row['peak_gb']:.2f}",
                f"{row['tflop_each']:.3g}",
                share,
            )
        console.print(table)
    console.print(f"{result['device']}; the floor is {result['ways'][0]['floor_tflop_each']:.3g} TFLOP a pair")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "lite", "full"), default="tiny")
    parser.add_argument("--pairs", type=int, default=1, help="pairs a step")
    parser.add_argument("--people", type=int, default=1, help="people embedded at once")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=1, help="how often every way is started, in turns")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, in every way of training")
    parser.add_argument("--count", action="store_true", help="only count parameters and FLOPs, and stop")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        count()
        return
    if args.way:
        print(json.dumps(measure(args.way, args)))
        return
    runs: dict[str, list[Mapping[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, found in runs.items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--way", way], stdout=subprocess.PIPE, text=True, check=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    ways = [summary(way, found, args) for way, found in runs.items()]
    result = {"ways": ways, "device": ways[0]["device"], "torch": torch.__version__, "settings": vars(args)}
    show(result)
    (ROOT / "bench/results" / f"paper_scale_{args.size}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
