"""SDXL (2.57 B) and Z-Image (6.15 B) with random weights at their published sizes: the part `bases` of paper_scale.py.

Ours against the plain way at the same batch, as for Stable Cascade; with checkpointing, and without compiling, which
would take longer than the measurement. The sizes of the images are those that the bases draw: 1024 px.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, ZImageTransformer2DModel
from full_size import (
    BIG_G,
    CLIP_L,
    QWEN3_4B,
    SDXL,
    TINY_CLIP,
    TINY_QWEN3,
    TINY_SDXL,
    TINY_VAE,
    TINY_Z_IMAGE,
    VAE_4,
    VAE_16,
    Z_IMAGE,
)
from paper_scale_networks import CAPTIONS, N_TOKENS, Base, pixels, random_choices
from paper_scale_training import PLAIN, Case, floor_flops, in_short, measured_case, settings_of, timed
from plain_way import plain_step
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, Qwen3Config, Qwen3Model

from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.model.process import Discrete, RectifiedFlow
from ppd.diffusion.model.unet import UNetBackbone
from ppd.diffusion.model.vae_codec import VaeCodec
from ppd.diffusion.model.z_image import TOKENS, ZImageBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.pretrain.text import caption_tokenizer, chat_tokenizer

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = 2
"""At most so many are timed: a step of Z-Image is seconds."""


@dataclass(frozen=True)
class OtherBase:
    """make: the backbone with random weights on a device; its encoders, which training needs not, nowhere ("meta") or
    there as well. pairs: in one micro-batch, which is a step."""

    name: str
    make: Callable[[str, torch.device, torch.device], UNetBackbone | ZImageBackbone]
    pairs: int
    latent_shape: tuple[int, int, int]
    text: Callable[[str, int, torch.Generator], Text]


def other_bases(size: str) -> tuple[OtherBase, OtherBase]:
    """SDXL and Z-Image at full, or tiny."""
    if size == "tiny":
        return (
            OtherBase("SDXL, tiny", random_sdxl, 1, (4, 16, 16), _sdxl_text),
            OtherBase("Z-Image, tiny", random_z_image, 1, (4, 16, 16), _z_image_text),
        )
    return (
        OtherBase("SDXL", random_sdxl, 4, (4, 128, 128), _sdxl_text),
        OtherBase("Z-Image", random_z_image, 2, (16, 128, 128), _z_image_text),
    )


def measure_bases(device: torch.device, size: str, steps: int) -> Iterator[dict[str, Any]]:
    """A row for ours and one for the plain way, of each base; one with `error` in place of numbers where it failed."""
    for base in other_bases(size):
        form = {"base": base.name, "unit": "pairs", "n": base.pairs, "pairs": base.pairs, "checkpointing": 1.0}
        case = Case(base.pairs, checkpointing=1.0, compile=False)
        for way, act in {case.way: _ours, PLAIN: _plain}.items():
            try:
                yield form | {"way": way} | act(base, case, device, size, min(steps, STEPS))
            except Exception as error:  # noqa: BLE001 - the next may work, and this one's failure is a result
                yield form | {"way": way, "error": in_short(error)}
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _ours(base: OtherBase, case: Case, device: torch.device, size: str, steps: int) -> dict[str, Any]:
    """Our trainer's step; encoders are not there."""
    backbone = base.make(size, device, torch.device("meta"))
    data = random_choices(_named(base, size))
    facts = _facts(backbone, data)
    return facts | measured_case(backbone, data, case, steps, device, profiled=False)


def _plain(base: OtherBase, case: Case, device: torch.device, size: str, steps: int) -> dict[str, Any]:
    """The plain way's step: the second network, the text encoders and the codec stay on the device."""
    backbone = base.make(size, device, device)
    data = random_choices(_named(base, size))
    facts = _facts(backbone, data)
    backbone.enable_gradient_checkpointing()
    images = pixels(len(data.latents), base.latent_shape[-1] * backbone.codec.pixels_per_latent, device)
    act = plain_step(backbone, data, images, CAPTIONS, settings_of(case), whole_network=False)
    with FlopCounterMode(display=False) as counter:
        act(0)
    step = count(1)
    found = timed(lambda: act(next(step)), steps, device)
    return facts | found | {"flops_each": counter.get_total_flops() / case.pairs}


def _named(base: OtherBase, size: str) -> Base:
    """What the choices depend on."""
    return Base(base.name, lambda device: base.make(size, device, device), base.latent_shape, partial(base.text, size))


def _facts(backbone: Backbone, data: TrainingData) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in backbone.network.parameters())
    return {"parameters": parameters, "floor_tflop_each": 2 * floor_flops(backbone, data) / 1e12}


def random_sdxl(size: str, device: torch.device, encoders: torch.device) -> UNetBackbone:
    """SDXL's UNet in bf16, its two text encoders and its codec in fp32."""
    torch.manual_seed(0)
    tokenizer = caption_tokenizer(CAPTIONS)
    tokenizer.model_max_length = N_TOKENS
    first, second = (TINY_CLIP, TINY_CLIP) if size == "tiny" else (CLIP_L, BIG_G)
    marks = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": N_TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with device, _default_dtype(torch.bfloat16):
        unet = UNet2DConditionModel(**(TINY_SDXL if size == "tiny" else SDXL))
    with encoders:
        clip_l = CLIPTextModel(CLIPTextConfig(**marks, **first))
        big_g = CLIPTextModelWithProjection(CLIPTextConfig(**marks, **second))
        vae = AutoencoderKL(**(TINY_VAE if size == "tiny" else VAE_4))
    return UNetBackbone(
        unet=unet,
        readers=[(tokenizer, clip_l), (tokenizer, big_g)],
        codec=VaeCodec(vae),
        process=Discrete(SCHEDULE),
        zero_if_empty=True,
    )


def random_z_image(size: str, device: torch.device, encoders: torch.device) -> ZImageBackbone:
    """Z-Image's transformer and text encoder in bf16, and its codec in fp32."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(CAPTIONS)
    tokenizer.model_max_length = TOKENS
    text = Qwen3Config(
        **(TINY_QWEN3 if size == "tiny" else QWEN3_4B),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _default_dtype(torch.bfloat16):
        with device:
            transformer = ZImageTransformer2DModel(**(TINY_Z_IMAGE if size == "tiny" else Z_IMAGE))
        with encoders:
            text_encoder = Qwen3Model(text)
    with encoders:
        vae = AutoencoderKL(**(TINY_VAE if size == "tiny" else VAE_16))
    return ZImageBackbone(
        transformer=transformer,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        codec=VaeCodec(vae),
        process=RectifiedFlow({"shift": 6.0}),
    )


def _sdxl_text(size: str, n: int, g: torch.Generator) -> Text:
    width, pooled = (64, 32) if size == "tiny" else (2048, 1280)
    return Text(torch.randn(n, N_TOKENS, width, generator=g), torch.randn(n, pooled, generator=g))


def _z_image_text(size: str, n: int, g: torch.Generator) -> Text:
    """Captions of 30 tokens, which the network fills up to 32."""
    width = TINY_Z_IMAGE["cap_feat_dim"] if size == "tiny" else Z_IMAGE["cap_feat_dim"]
    return Text(torch.randn(n, TOKENS, width, generator=g), lengths=torch.full((n,), 30))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, parameters are made in this dtype: no fp32 copy that would be twice as large."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
