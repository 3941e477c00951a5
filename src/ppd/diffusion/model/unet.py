"""Stable Diffusion 1.x, 2.x and SDXL as backbones: a UNet2DConditionModel, at any size.

The checkpoint's own files decide what it is: its scheduler whether ε or v is predicted, its config whether it takes the
pooled text and the image's size (SDXL), its folder whether there is a second text encoder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from ppd.diffusion.model.attention import CrossAttention
from ppd.diffusion.model.backbone import Codec, Text
from ppd.diffusion.model.fingerprint import fingerprint
from ppd.diffusion.model.frozen import IN_MEMORY, FrozenBase, Origin, load_network
from ppd.diffusion.model.process import Discrete
from ppd.errors import InputError
from ppd.settings import Precision

Reader = tuple[PreTrainedTokenizerBase, CLIPTextModel | CLIPTextModelWithProjection]
"""A tokenizer and the text encoder that it belongs to."""


class UNetBackbone(FrozenBase):
    """Frozen, in eval mode. Text encoders (in fp32) and codec move to the network's device when they are first used.

    readers: one, or SDXL's two, of which the last one pools. zero_if_empty: the empty caption is zeros and not what the
    encoders make of it, which is how SDXL was trained to draw without one.
    """

    repeated = (BasicTransformerBlock, ResnetBlock2D)

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        readers: Sequence[Reader],
        codec: Codec,
        process: Discrete,
        zero_if_empty: bool = False,
        origin: Origin = IN_MEMORY,
    ) -> None:
        _check(unet, len(readers), origin[0])
        super().__init__(unet, codec, origin)
        self.readers = tuple((tokenizer, encoder.eval().requires_grad_(False)) for tokenizer, encoder in readers)
        self.process = process
        self.zero_if_empty = zero_if_empty
        self.sized = unet.config.addition_embed_type == "text_time"

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        codec: Codec,
        revision: str | None = None,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load `unet/`, `scheduler/` and one or two `text_encoder/` and `tokenizer/` of a folder (or hub id).

        Raises InputError for a UNet of another kind (inpainting, distilled guidance, ...), for a network that predicts
        neither ε nor v, and where memory is too small.
        """
        index = DiffusionPipeline.load_config(folder, revision=revision)
        classes = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection}
        readers: list[Reader] = [
            (
                AutoTokenizer.from_pretrained(
                    folder, subfolder=f"tokenizer{suffix}", revision=revision, trust_remote_code=False
                ),
                encoder.from_pretrained(
                    folder, subfolder=f"text_encoder{suffix}", revision=revision, dtype=torch.float32,
                    use_safetensors=True,
                ),
            )
            for suffix, encoder in classes.items()
            if f"text_encoder{suffix}" in index
        ]  # fmt: skip
        return cls(
            unet=load_network(UNet2DConditionModel, str(folder), "unet", revision, precision, device),
            readers=readers,
            codec=codec,
            process=Discrete(DDIMScheduler.load_config(folder, subfolder="scheduler", revision=revision)),
            zero_if_empty="text_encoder_2" in index and index.get("force_zeros_for_empty_prompt", True),
            origin=(str(folder), revision or "local"),
        )

    @property
    def encoders_fingerprint(self) -> str:
        encoders = "-".join(fingerprint(encoder) for _, encoder in self.readers)
        return f"{encoders}-{'zeros' if self.zero_if_empty else 'words'}-{self.codec.encoder_fingerprint}"

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Text:
        """Captions -> tokens [B, T, D] and, of SDXL, pooled [B, P]; too long ones are cut, as the pipelines do.

        One encoder is read at its end (Stable Diffusion), two before their last layers, side by side (SDXL).
        """
        tokens, pooled = [], None
        for tokenizer, encoder in self.readers:
            inputs = tokenizer(
                list(captions),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            mask = inputs["attention_mask"] if getattr(encoder.config, "use_attention_mask", False) else None
            read = encoder.to(self.device)(inputs["input_ids"], attention_mask=mask, output_hidden_states=True)
            tokens.append(read.hidden_states[-2] if self.sized else read.last_hidden_state)
            pooled = read.text_embeds if self.sized and "text_embeds" in read else pooled
        text = Text(torch.cat(tokens, dim=-1), pooled)
        if self.zero_if_empty:
            empty = torch.tensor([caption == "" for caption in captions])
            for part in text.tensors().values():
                part[empty] = 0
        return text

    def predict(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        """ε̂ or v̂ [B, C, h, w] in fp32: the network's own output."""
        added = None
        if self.sized:
            added = {"text_embeds": text.vectors.to(self.dtype), "time_ids": self._sizes(x_t)}
        (output,) = self.network(
            x_t.to(self.dtype),
            self.process.step_of(t),
            encoder_hidden_states=text.tokens.to(self.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )
        return output.float()

    def _sizes(self, x_t: Tensor) -> Tensor:
        """SDXL's size conditioning [B, 6]: an image that was never larger, and of which nothing was cut off."""
        height, width = (side * self.codec.pixels_per_latent for side in x_t.shape[2:])
        sizes = [height, width, 0, 0, height, width]
        return torch.stack([x_t.new_full((len(x_t),), size) for size in sizes], dim=1)

    def guide(self, near: Tensor, far: Tensor, strength: float) -> Tensor:
        return far + strength * (near - far)

    def attention_blocks(self) -> Mapping[str, Attention]:
        """The attention to the text (`attn2`); names as "down_0_1_0": side, level, place, layer; "mid_0_0"."""
        sides = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
        return {
            "_".join([side, *re.findall(r"\d+", name.removesuffix("attn2"))]): module
            for side, part in sides.items()
            for name, module in self.network.get_submodule(part).named_modules()
            if name.endswith(".attn2")
        }

    def user_processor(self) -> CrossAttention:
        return CrossAttention()

    def text_lengths(self, text: Text) -> list[int]:
        return [text.tokens.shape[1]] * len(text)


def _check(unet: UNet2DConditionModel, n_readers: int, base_id: str) -> None:
    config = unet.config
    kind = config.addition_embed_type
    if kind not in (None, "text_time") or (kind is None) != (n_readers == 1):
        raise InputError(
            f"a UNet with addition_embed_type {kind} and {n_readers} text encoders; Stable Diffusion has one and no "
            "such type, SDXL two and text_time",
            file=base_id,
        )
    if config.in_channels != config.out_channels:
        raise InputError(
            f"a UNet with {config.in_channels} channels in and {config.out_channels} out, as for inpainting; only "
            "text-to-image is known",
            file=base_id,
        )
    if config.time_cond_proj_dim is not None or config.class_embed_type is not None:
        raise InputError("a UNet that takes guidance or a class as an input; only plain ones are known", file=base_id)
