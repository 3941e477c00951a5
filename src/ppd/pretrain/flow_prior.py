"""The nano Z-Image: a flow-matching prior over the codec's latents, in the hub's folder layout.

About 2 minutes on an H100 for the defaults, hours on a CPU core; expect a loss of .39, which still falls then, and with
text guidance 3 the right concept in .98 of the pictures, though they are blurred. A caption names the concept
only, as for the nano Stable Cascade (`ppd.pretrain.prior`), and the codec is that one's.
"""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from ppd.diffusion.model.codec import PATCH_PX, ImageCodec
from ppd.files import atomic_path
from ppd.pretrain.latent_pool import CAPTIONS, LatentPool, training_draws
from ppd.pretrain.loop import HARDWARE, Curve, LoopSettings, autocast, fit, hardware, save_curve
from ppd.pretrain.text import chat_tokenizer, tokenize
from ppd.pretrain.z_image_batch import BatchedZImage
from ppd.settings import Component, Share
from ppd.simulation.render import Atlas
from ppd.simulation.world import IMAGE_PX

LATENT_PX = IMAGE_PX // PATCH_PX
PARTS = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": [None, None],
}
"""What `model_index.json` says lies in the folder; in place of an AutoencoderKL there is `codec/`."""


class FlowPriorSettings(Component):
    """Shape and training of the prior and its text encoder."""

    width: int = 160
    """A head has 32 channels: 8 for the place in the sequence, 12 each for row and column."""
    layers: int = 5
    refiner_layers: int = 1
    text_width: int = 128
    text_layers: int = Field(2, ge=2)
    """Z-Image reads the hidden states before the last layer, which therefore learns nothing."""
    empty_caption_share: Share = 0.1
    pool_size: int = Field(65_536, ge=1)
    """Renders whose latents are held at once; after `pool_steps` steps they make room for new ones."""
    pool_steps: int = Field(1000, ge=1)
    compile: bool = False
    """Compile the blocks first: worth its time only for a run longer than the default."""
    loop: LoopSettings = LoopSettings(
        steps=943, batch_size=512, learning_rate=1e-3, warmup_steps=200, decay_share=0.4, ema_decay=0.998
    )


def build_flow_prior(settings: FlowPriorSettings, latent_channels: int) -> ZImageTransformer2DModel:
    """Its output is 0 and its blocks pass their input on at first (adaLN-Zero, Peebles & Xie 2023)."""
    transformer = ZImageTransformer2DModel(
        in_channels=latent_channels,
        dim=settings.width,
        n_layers=settings.layers,
        n_refiner_layers=settings.refiner_layers,
        n_heads=settings.width // 32,
        n_kv_heads=settings.width // 32,
        cap_feat_dim=settings.text_width,
        axes_dims=[8, 12, 12],
        axes_lens=[64, 32, 32],
    )
    for block in (*transformer.noise_refiner, *transformer.layers):
        _silence(block.adaLN_modulation[0])
    for final in transformer.all_final_layer.values():
        _silence(final.linear)
    return transformer


def _silence(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def build_text_encoder(settings: FlowPriorSettings, tokenizer: PreTrainedTokenizerFast) -> Qwen3Model:
    """A Qwen3 that is read before its last layer; that one is frozen."""
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=2 * settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=settings.text_width // 32,
            num_key_value_heads=settings.text_width // 32,
            head_dim=32,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    encoder.layers[-1].requires_grad_(False)
    encoder.norm.requires_grad_(False)
    return encoder


def train_flow_prior(
    atlas: Atlas, codec_folder: Path, settings: FlowPriorSettings, out: Path, work: Path, device: torch.device
) -> None:
    """Train prior and text encoder together on the latents of the codec; leaves the whole model folder in `out`.

    The loss is the mean squared error of v = ε − x_0 at x_σ = (1 − σ)·x_0 + σ·ε (Lipman et al. 2023; Liu et al. 2023)
    for uniform, stratified σ: not logit-normal, since tone, style and layout, which users differ in, are decided above
    σ = .9, where that law puts 1.4 % of its weight.
    """
    loop = settings.loop
    codec = ImageCodec.from_pretrained(codec_folder).eval().to(device)
    channels = codec.config.latent_channels
    tokenizer = chat_tokenizer(CAPTIONS)
    torch.manual_seed(loop.seed)
    transformer = build_flow_prior(settings, channels)
    text_encoder = build_text_encoder(settings, tokenizer)
    network = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder}).to(device)
    batched = BatchedZImage(transformer, LATENT_PX)
    if settings.compile:
        transformer.compile_repeated_blocks(dynamic=False)
    pool = LatentPool(
        atlas,
        codec,
        device,
        name="flow-prior",
        seed=loop.seed,
        size=settings.pool_size,
        steps_each=settings.pool_steps,
        steps=loop.steps,
    )
    draws = training_draws(pool, loop.batch_size, settings.empty_caption_share, channels)
    tokens = tokenize(tokenizer, CAPTIONS).to(device)

    def loss_at(step: int) -> Tensor:
        rows, empty, sigma, noise = draws(step)
        x_0, captions = pool.batch(step, rows, empty)
        at = sigma[:, None, None, None]
        hidden = text_encoder(**tokens, output_hidden_states=True, use_cache=False).hidden_states[-2]
        with autocast(device, loop.bf16):
            text = batched.captions(hidden, tokens["attention_mask"])
            v = batched.velocity((1 - at) * x_0 + at * noise, sigma, text[captions])
        return (v - (noise - x_0)).square().mean()

    def publish(curve: Curve) -> None:
        in_bf16 = build_flow_prior(settings, channels).to(torch.bfloat16)
        in_bf16.load_state_dict(transformer.state_dict())
        with atomic_path(out) as fresh:
            in_bf16.save_pretrained(fresh / "transformer")
            text_encoder.save_pretrained(fresh / "text_encoder")
            tokenizer.save_pretrained(fresh / "tokenizer")
            FlowMatchEulerDiscreteScheduler().save_pretrained(fresh / "scheduler")
            shutil.copytree(codec_folder, fresh / "codec")
            index = {"_class_name": "ZImagePipeline", "_diffusers_version": diffusers.__version__} | PARTS
            (fresh / "model_index.json").write_text(json.dumps(index, indent=2))
            (fresh / HARDWARE).write_text(hardware(device))
            (fresh / "settings.json").write_text(settings.model_dump_json(indent=2))
            save_curve(curve, fresh, title="flow prior: mean squared error of v")

    fit(network, loss_at, loop, work / "prior.safetensors", publish, title="flow prior")
