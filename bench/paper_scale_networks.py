"""Random weights at the published sizes, or tiny ones of the same classes, and random choices for them.

A `Base` says all that the training part must know of a base model; another base is another function that returns one.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
from full_size import (
    BIG_G,
    DECODER,
    LLAVA_7B,
    PRIOR,
    PRIOR_LITE,
    TINY,
    TINY_CLIP,
    TINY_DECODER,
    TINY_LLAVA,
    TINY_VQGAN,
    VQGAN,
)
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    Qwen2Config,
    SiglipVisionConfig,
)

from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.model.cascade_codec import CascadeCodec
from ppd.diffusion.model.efficientnet import LATENT_CHANNELS, EfficientNetEncoder
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
from ppd.pretrain.text import caption_tokenizer
from ppd.users.embeddings import VlmRef
from ppd.vlm.processor import ImageTextProcessor
from ppd.vlm.transformers_backend import TransformersVlm

CAPTIONS = ["a sticker of a fox", "a sticker of a cat"]
N_IMAGES, N_USERS, N_PAIRS = 64, 8, 4096
N_TOKENS = 77


@dataclass(frozen=True)
class Base:
    """A base model to train beside. make: the backbone with random weights in bf16 on a device."""

    name: str
    make: Callable[[torch.device], Backbone]
    latent_shape: tuple[int, int, int]
    text: Callable[[int, torch.Generator], Text]
    """So many random captions as the backbone reads them."""


def stable_cascade(size: str) -> Base:
    """Stage C of 3.59 B parameters (full), 1.03 B (lite), or tiny."""
    width = TINY["clip_text_in_channels"] if size == "tiny" else PRIOR["clip_text_in_channels"]

    def text(n: int, g: torch.Generator) -> Text:
        return Text(torch.randn(n, N_TOKENS, width, generator=g), torch.randn(n, width, generator=g))

    side = 3 if size == "tiny" else 24
    return Base(
        name={"tiny": "Stage C, tiny", "lite": "Stage C, lite", "full": "Stage C"}[size],
        make=lambda device: random_cascade(size, device, encoders=False),
        latent_shape=(LATENT_CHANNELS, side, side),
        text=text,
    )


def random_cascade(
    size: str, device: torch.device, *, encoders: bool = True, decoder: bool = False
) -> StableCascadeBackbone:
    """Stage C on `device`, with CLIP's text encoder there too (encoders), and Stage B and A (decoder).

    What is not asked for is tiny: it is there, and costs nothing.
    """
    torch.manual_seed(0)
    tokenizer = caption_tokenizer(CAPTIONS)
    tokenizer.model_max_length = N_TOKENS
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=N_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(BIG_G if encoders and size != "tiny" else TINY_CLIP),
    )
    with device:
        unet = StableCascadeUNet(**{"tiny": TINY, "lite": PRIOR_LITE, "full": PRIOR}[size]).to(torch.bfloat16)
        torch.nn.init.normal_(unet.clf[1].weight, std=0.02)
        text_encoder = CLIPTextModelWithProjection(text)
        stage_b = StableCascadeUNet(**(DECODER if decoder and size != "tiny" else TINY_DECODER)).to(torch.bfloat16)
    vqgan = PaellaVQModel(**(VQGAN if decoder and size != "tiny" else TINY_VQGAN))
    codec = CascadeCodec(EfficientNetEncoder(), stage_b, vqgan, DDPMWuerstchenScheduler())
    return StableCascadeBackbone(unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, codec=codec)


def random_choices(base: Base) -> TrainingData:
    """Random users and choices, as training reads them."""
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(high, (N_PAIRS,), generator=g) for high in (N_USERS, len(CAPTIONS), N_IMAGES, N_IMAGES)]
    none = Pairs(*(row[:0] for row in rows))
    return TrainingData(
        latents=torch.randn(N_IMAGES, *base.latent_shape, generator=g).half(),
        text=base.text(len(CAPTIONS), g),
        embeddings=torch.randn(N_USERS, 4, 256, generator=g),
        first=torch.arange(N_USERS + 1),
        train=Pairs(*rows),
        seen=none,
        held_out=none,
        pictures_hash="random",
        content_hash="random",
    )


def random_vlm(size: str, device: torch.device, batch_size: int) -> TransformersVlm:
    """A LLaVA-OneVision with random weights and the sticker world's tokenizer, which cuts a prompt in words too."""
    from ppd.pretrain.vlm_architecture import TEMPLATE, build_tokenizer  # here: training needs no SciPy

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


def picture() -> bytes:
    """An encoded image that differs from every other."""
    buffer = io.BytesIO()
    Image.fromarray(torch.randint(256, (512, 512, 3), dtype=torch.uint8).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(n: int, px: int, device: torch.device) -> Tensor:
    """Random images [n, 3, px, px] in [0, 1]."""
    return torch.rand(n, 3, px, px, generator=torch.Generator().manual_seed(0)).to(device)
