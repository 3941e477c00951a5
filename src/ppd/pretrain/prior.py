"""The nano Stable Cascade: a text-to-image prior over the codec's latents, in the hub's folder layout.

About 2 minutes for the codec and 4 for each 1,000 steps of the prior on one CPU core with bf16 instructions and a C++
compiler. After 7,000 steps the loss is .23; after 16,000 and two further rounds of larger batches, four hours in all,
it is .174 and hardly falls any more.

A caption names the concept only, so the prior learns to draw every style, tone and layout in the world's proportions.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.unets.unet_stable_cascade import SDCascadeAttnBlock, SDCascadeResBlock, SDCascadeTimestepBlock
from pydantic import Field
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from ppd.diffusion.model.codec import ImageCodec
from ppd.files import atomic_path
from ppd.pretrain.codec import CodecSettings, train_codec
from ppd.pretrain.latent_pool import CAPTIONS, LatentPool, training_draws
from ppd.pretrain.loop import (
    HARDWARE,
    Curve,
    LoopSettings,
    after,
    autocast,
    averaged_weights,
    fit,
    hardware,
    save_curve,
)
from ppd.pretrain.text import caption_tokenizer, text_config, tokenize
from ppd.settings import Component, Share
from ppd.simulation.render import Atlas


class PriorSettings(Component):
    """Shape and training of the prior and its text encoder."""

    channels: tuple[int, int] = (128, 224)
    """Of the 8 x 8 and the 4 x 4 level; a head has 32 channels."""
    layers: tuple[int, int] = (2, 2)
    """Blocks of each level, on the way down and again on the way up."""
    conditioning_dim: int = 128
    text_width: int = 128
    text_layers: int = 2
    empty_caption_share: Share = 0.1
    pool_size: int = Field(16384, ge=1)
    """Renders whose latents are held at once; after `pool_steps` steps they make room for new ones."""
    pool_steps: int = Field(2000, ge=1)
    compile: bool = True
    codec: CodecSettings = CodecSettings()
    loop: LoopSettings = LoopSettings(
        steps=16_000, batch_size=32, learning_rate=1e-3, warmup_steps=200, decay_share=0.4, ema_decay=0.998
    )
    further_rounds: tuple[LoopSettings, ...] = ()
    """Each goes on from the averaged weights of the round before, on renders of its own `seed`."""


def build_prior(settings: PriorSettings, latent_channels: int) -> StableCascadeUNet:
    """A `StableCascadeUNet` whose output is 0 and whose blocks ignore t at first: diffusers never calls its init."""
    unet = StableCascadeUNet(
        in_channels=latent_channels,
        out_channels=latent_channels,
        patch_size=2,
        conditioning_dim=settings.conditioning_dim,
        block_out_channels=settings.channels,
        num_attention_heads=tuple(channels // 32 for channels in settings.channels),
        down_num_layers_per_block=settings.layers,
        up_num_layers_per_block=settings.layers[::-1],
        clip_text_in_channels=settings.text_width,
        clip_text_pooled_in_channels=settings.text_width,
        clip_image_in_channels=32,
        clip_seq=2,
        dropout=(0.0, 0.0),
        timestep_conditioning_type=(),
    )
    nn.init.zeros_(unet.clf[1].weight)
    nn.init.zeros_(unet.clf[1].bias)
    for block in unet.modules():
        if isinstance(block, SDCascadeTimestepBlock):
            nn.init.zeros_(block.mapper.weight)
            nn.init.zeros_(block.mapper.bias)
    return unet


def _in_bf16(unet: StableCascadeUNet, settings: PriorSettings) -> StableCascadeUNet:
    """A copy in half the bytes, which is how it is shipped; it loads as fp32 again and draws the same pictures."""
    copy = build_prior(settings, unet.config.in_channels).to(torch.bfloat16)
    copy.load_state_dict(unet.state_dict())
    return copy


def build_text_encoder(settings: PriorSettings, tokenizer: PreTrainedTokenizerFast) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(**text_config(tokenizer, width=settings.text_width, n_layers=settings.text_layers))
    )


def velocity(x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = √ᾱ·ε − √(1−ᾱ)·x_0 (Salimans & Ho 2022), so that ε = √(1−ᾱ)·x_t + √ᾱ·v: [B, C, h, w] twice, ᾱ [B]."""
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0


class Denoiser(nn.Module):
    """Prior and text encoder as one function of tensors, with weights named as the two have them."""

    def __init__(
        self,
        prior: StableCascadeUNet,
        text_encoder: CLIPTextModelWithProjection,
        tokens: Mapping[str, Tensor],
        *,
        bf16: bool,
    ) -> None:
        super().__init__()
        self.prior, self.text_encoder, self.bf16 = prior, text_encoder, bf16
        for name, tensor in tokens.items():
            self.register_buffer(name, tensor, persistent=False)
        self.token_names = list(tokens)

    def forward(self, x_t: Tensor, t: Tensor, captions: Tensor) -> Tensor:
        """v̂ [B, C, h, w] in fp32 at x_t [B, C, h, w] and t [B]. captions: indices of the tokens' rows [B]."""
        tokens = {name: self.get_buffer(name) for name in self.token_names}
        text = self.text_encoder(**tokens, output_hidden_states=True)
        with autocast(x_t.device, self.bf16):
            (v,) = self.prior(
                sample=x_t,
                timestep_ratio=t,
                clip_text_pooled=text.text_embeds[captions][:, None],
                clip_text=text.hidden_states[-1][captions],
                clip_img=x_t.new_zeros(len(x_t), 1, self.prior.config.clip_image_in_channels),
                return_dict=False,
            )
        return v.float()


def _record(network: Denoiser, x_t: Tensor, t: Tensor, captions: Tensor) -> None:
    """Let a GPU replay the forward and the backward: at this size it waits longer for launches than it computes."""
    torch.cuda.make_graphed_callables(network.train(), (x_t, t, captions), allow_unused_input=True)


def _compile(unet: StableCascadeUNet, device: torch.device) -> None:
    """Compile in place: whole for a CPU; block by block for a GPU, where the whole takes minutes and fails in 2.11."""
    if device.type == "cpu":
        for attention in unet.modules():
            if isinstance(attention, Attention):
                attention.set_processor(AttnProcessor())  # plain products: the compiler fuses them, and not the kernel
        unet.compile()
    else:
        for block in unet.modules():
            if isinstance(block, SDCascadeResBlock | SDCascadeTimestepBlock | SDCascadeAttnBlock):
                block.compile(dynamic=False)


def train_prior(
    atlas: Atlas,
    settings: PriorSettings,
    out: Path,
    work: Path,
    device: torch.device,
    codec_folder: Path | None = None,
) -> None:
    """Train the codec, then prior and text encoder together; leaves the whole model folder in `out`.

    The loss is the mean squared error of v at uniform, stratified t. Unfinished states lie in `work`; each publication
    replaces `out` as a whole. codec_folder: a codec to take instead of training one.
    """
    if codec_folder is None:
        codec_folder = work / "codec"
        codec = train_codec(atlas, settings.codec, codec_folder, work / "codec.safetensors", device)
    else:
        codec = ImageCodec.from_pretrained(codec_folder).eval()
    codec = codec.to(device)
    tokenizer = caption_tokenizer(CAPTIONS)
    scheduler = DDPMWuerstchenScheduler()
    scheduler.register_to_config(prediction_type="v_prediction")
    torch.manual_seed(settings.loop.seed)
    unet = build_prior(settings, settings.codec.latent_channels)
    text_encoder = build_text_encoder(settings, tokenizer)
    tokens = tokenize(tokenizer, CAPTIONS)
    network = Denoiser(unet, text_encoder, tokens, bf16=settings.loop.bf16).to(device)
    if settings.compile:
        _compile(unet, device)

    def train(loop: LoopSettings, name: str, before: Curve) -> Curve:
        pool = LatentPool(
            atlas,
            codec,
            device,
            name="prior",
            seed=loop.seed,
            size=settings.pool_size,
            steps_each=settings.pool_steps,
            steps=loop.steps,
        )
        draws = training_draws(pool, loop.batch_size, settings.empty_caption_share, settings.codec.latent_channels)
        if device.type == "cuda":
            rows, _, t, noise = draws(0)
            _record(network, noise, t, torch.zeros_like(rows))

        def loss_at(step: int) -> Tensor:
            rows, empty, t, noise = draws(step)
            x_0, captions = pool.batch(step, rows, empty)
            x_t = scheduler.add_noise(x_0, noise, t)
            target = velocity(x_0, noise, scheduler._alpha_cumprod(t, device))
            return (network(x_t, t, captions) - target).square().mean()

        def publish_all(curve: Curve) -> None:
            publish(after(before, curve))

        state = work / f"{name}.safetensors"
        return after(before, fit(network, loss_at, loop, state, publish_all, title=name))

    def publish(curve: Curve) -> None:
        with atomic_path(out) as fresh:
            _in_bf16(unet, settings).save_pretrained(fresh / "prior")
            text_encoder.save_pretrained(fresh / "text_encoder")
            tokenizer.save_pretrained(fresh / "tokenizer")
            scheduler.save_pretrained(fresh / "scheduler")
            shutil.copytree(codec_folder, fresh / "codec")
            (fresh / HARDWARE).write_text(hardware(device))
            (fresh / "settings.json").write_text(settings.model_dump_json(indent=2))
            save_curve(curve, fresh, title="prior: mean squared error of v")

    curve = train(settings.loop, "prior", [])
    name = "prior"
    for number, loop in enumerate(settings.further_rounds, start=2):
        network.load_state_dict(averaged_weights(work / f"{name}.safetensors"))
        name = f"prior-{number}"
        curve = train(loop, name, curve)
