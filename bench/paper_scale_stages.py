"""The other stages at the published sizes: embed, encode, sample, judge. Parts of paper_scale.py."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from paper_scale_networks import CAPTIONS, picture, pixels, random_cascade, random_vlm
from paper_scale_training import in_short, timed
from torch.utils.flop_counter import FlopCounterMode

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.sampling.sampler import Request, sample_latents
from ppd.seeding import generator
from ppd.settings import EmbeddingSettings, JudgeSettings, SamplingSettings, UserAttentionSettings
from ppd.users.support import Pair
from ppd.vlm.embedding import embed
from ppd.vlm.judging import VlmJudge
from ppd.vlm.prompts import Candidates

Rows = Iterator[dict[str, Any]]
TOP_ROWS = (-4, -3, -2, -1)
GROUPS_AT_ONCE = 8
"""More users are embedded in batches of so many, as the stage does: the next batch's images are prepared meanwhile."""


def row_of(
    way: str, unit: str, n: int, act: Callable[[], object], device: torch.device, times: int = 1, *, each: int = 1
) -> dict[str, Any]:
    """What one call of `act`, which does `n` at once, takes; after one that is not timed. each: units in one of n."""
    row = {"way": way, "unit": unit, "n": n}
    try:
        act()
        return row | timed(act, times, device) | {"done": n * each, "flops_each": _flops(act) / n / each}
    except Exception as error:  # noqa: BLE001 - the next row may work, and this one's failure is a result
        return row | {"error": in_short(error)}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _flops(act: Callable[[], object]) -> int:
    """Counted after the timing, which must not be lost where torch cannot count: grouped queries in 2.11, as 0."""
    try:
        with FlopCounterMode(display=False) as counter:
            act()
    except AssertionError:
        return 0
    return counter.get_total_flops()


def supports(n: int) -> list[list[Pair]]:
    """Four pairs of each of n users."""
    return [[Pair(CAPTIONS[0], picture(), picture()) for _ in range(4)] for _ in range(n)]


def measure_embed(device: torch.device, size: str, ns: tuple[int, ...], n_words: int) -> Rows:
    """Users a second: the prompt read at its end; and with so many words written first, which random weights never
    cut short: the most that a profile can cost."""
    vlm = random_vlm(size, device, GROUPS_AT_ONCE)
    parameters = {"parameters": sum(weight.numel() for weight in vlm.model.parameters())}
    read = EmbeddingSettings(prompt="full-1", rows=TOP_ROWS, max_new_tokens=0)
    for n in ns:
        told = supports(n)
        yield parameters | row_of("embed, prompt read", "users", n, lambda told=told: embed(vlm, told, read), device)
    written = EmbeddingSettings(prompt="full-1", rows=TOP_ROWS, read="answer-end", max_new_tokens=n_words)
    n = min(max(ns), GROUPS_AT_ONCE)
    told = supports(n)
    row = row_of("embed, profile written", "users", n, lambda: embed(vlm, told, written), device)
    yield parameters | row | {"words": n_words}


def measure_judge(device: torch.device, size: str, n_comparisons: int) -> Rows:
    """Comparisons a second of one user, each asked in both orders."""
    vlm = random_vlm(size, device, 8)
    told = supports(1)[0]
    asked = [Candidates(CAPTIONS[0], picture(), picture()) for _ in range(n_comparisons)]
    for way, reuse in (("judge, pairs read once", True), ("judge, every question whole", False)):
        judge = VlmJudge(vlm, JudgeSettings(), reuse_pairs=reuse)
        yield row_of(way, "comparisons", n_comparisons, lambda judge=judge: judge(told, asked), device)


def measure_encode(device: torch.device, n: int, px: int) -> Rows:
    """Images a second through the image encoder; decoding files is not in it."""
    backbone = random_cascade("tiny", device)
    images = pixels(n, px, device)
    yield row_of("encode", "images", n, lambda: backbone.encode_images(images), device, 3)


def measure_sample(device: torch.device, size: str, ns: tuple[int, ...], side: int) -> Rows:
    """Images a second: 20 steps of Stage C with all three branches, then Stage B and A."""
    backbone = random_cascade(size, device, decoder=True)
    adapter = UserAttention.beside(backbone, (4, 256), UserAttentionSettings(token_dim=256)).eval()
    adapter.attach(backbone)
    steps = 2 if size == "tiny" else 20
    settings = SamplingSettings(
        latent_size=(side, side),
        steps=steps,
        sampler="ddim",
        spacing=1.0,
        text_guidance=4.0,
        text_interval=(0.0, 1.0),
        user_guidance=1.5,
        user_interval=(0.75, 1.0),
    )
    texts = backbone.encode_captions([CAPTIONS[0], ""])
    for n in ns:
        requests = [Request(CAPTIONS[0], seed, torch.randn(4, 256)) for seed in range(n)]
        text = texts[torch.zeros(n, dtype=torch.int64)]

        def draw(requests: list[Request] = requests, text: Any = text) -> torch.Tensor:
            return sample_latents(backbone, requests, text, texts[1:], settings, adapter)

        def decode(n: int = n, text: Any = text) -> torch.Tensor:
            latents = torch.randn(n, backbone.latent_channels, side, side, device=device)
            return backbone.decode_latents(latents, text, [generator("decode", seed) for seed in range(n)])

        yield row_of("sample, Stage C", "images", n, draw, device)
        yield row_of("sample, Stage B and A", "images", n, decode, device)
