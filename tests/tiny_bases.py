"""Tiny checkpoints of today's bases, of diffusers' real classes with random weights, in the hub's folder layout."""

import json
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

WIDTH, POOLED = 12, 10
DIFFUSERS, TRANSFORMERS = "diffusers", "transformers"


def write_base(folder: Path, kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """kind: sd15 (ε), sd2 (v), sdxl or z-image."""
    torch.manual_seed(0)
    (_write_z_image if kind == "z-image" else _write_unet)(folder, kind, tokenizer)
    _vae(shift=0.3 if kind == "z-image" else None).save_pretrained(folder / "vae")


def _write_unet(folder: Path, kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    xl = kind == "sdxl"
    size_embedding = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D") if xl else ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D") if xl else ("UpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=(1, 2) if xl else 1,
        cross_attention_dim=2 * WIDTH if xl else WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        use_linear_projection=kind != "sd15",
        **(size_embedding if xl else {}),
    )
    unet.save_pretrained(folder / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if kind == "sd2" else "epsilon",
    ).save_pretrained(folder / "scheduler")
    CLIPTextModel(_clip(tokenizer)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    parts = {"unet": (DIFFUSERS, "UNet2DConditionModel"), "text_encoder": (TRANSFORMERS, "CLIPTextModel")}
    if xl:
        CLIPTextModelWithProjection(_clip(tokenizer)).save_pretrained(folder / "text_encoder_2")
        tokenizer.save_pretrained(folder / "tokenizer_2")
        parts |= {"text_encoder_2": (TRANSFORMERS, "CLIPTextModelWithProjection")}
        parts |= {"tokenizer_2": (TRANSFORMERS, "PreTrainedTokenizerFast")}
    parts |= {"scheduler": (DIFFUSERS, "DDIMScheduler")}
    _write_index(folder, "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline", parts)


def _write_z_image(folder: Path, kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 32, 32],
    )
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(parameter)
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder / "text_encoder")
    tokenizer.chat_template = (
        "{% for message in messages %}user: {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant:{% endif %}"
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    parts = {"transformer": (DIFFUSERS, "ZImageTransformer2DModel"), "text_encoder": (TRANSFORMERS, "Qwen3Model")}
    _write_index(folder, "ZImagePipeline", parts | {"scheduler": (DIFFUSERS, "FlowMatchEulerDiscreteScheduler")})


def _write_index(folder: Path, pipeline: str, parts: dict[str, tuple[str, str]]) -> None:
    parts |= {"tokenizer": (TRANSFORMERS, "PreTrainedTokenizerFast"), "vae": (DIFFUSERS, "AutoencoderKL")}
    index = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__} | parts
    (folder / "model_index.json").write_text(json.dumps(index))


def _clip(tokenizer: PreTrainedTokenizerFast) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=24,
        projection_dim=POOLED,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _vae(shift: float | None) -> AutoencoderKL:
    """An AutoencoderKL that halves an image's side once."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.4,
        shift_factor=shift,
    )
