"""Low-rank weights in other hands: the plain pipelines of diffusers, and peft, draw with them what we draw."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.plain_lora import save_plain_lora
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.settings import LoraSettings

WIDTH = 32
Draw = Callable[[], Tensor]


def unet(**of_xl: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        **of_xl,
    )


def vae() -> AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        latent_channels=4, shift_factor=0.1, block_out_channels=(8, 16), norm_num_groups=4, **kinds
    ).eval()


def stable_diffusion() -> tuple[StableDiffusionPipeline, nn.Module, Draw]:
    pipeline = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet().eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    text = {"prompt_embeds": torch.randn(1, 7, WIDTH), "negative_prompt_embeds": torch.randn(1, 7, WIDTH)}
    return pipeline, pipeline.unet, drawing(pipeline, guidance_scale=4.0, **text)


def stable_diffusion_xl() -> tuple[StableDiffusionXLPipeline, nn.Module, Draw]:
    of_xl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2)}
    pipeline = StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet(projection_class_embeddings_input_dim=6 * 8 + 16, **of_xl).eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    text = {
        "prompt_embeds": torch.randn(1, 7, WIDTH),
        "negative_prompt_embeds": torch.randn(1, 7, WIDTH),
        "pooled_prompt_embeds": torch.randn(1, 16),
        "negative_pooled_prompt_embeds": torch.randn(1, 16),
    }
    return pipeline, pipeline.unet, drawing(pipeline, guidance_scale=4.0, **text)


def z_image() -> tuple[ZImagePipeline, nn.Module, Draw]:
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=64,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 32, 32],
    )
    pipeline = ZImagePipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    text = {"prompt_embeds": [torch.randn(7, WIDTH)], "negative_prompt_embeds": [torch.randn(4, WIDTH)]}
    return pipeline, transformer, drawing(pipeline, guidance_scale=3.0, height=16, width=16, **text)


def drawing(pipeline: StableDiffusionPipeline, **inputs: object) -> Draw:
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> Tensor:
        torch.manual_seed(9)
        return pipeline(num_inference_steps=3, output_type="pt", **inputs).images

    return draw


def trained(network: nn.Module, alpha: int = 4, *, bias: bool = False) -> LowRank:
    lora = LowRank(network, LoraSettings(rank=2, alpha=alpha, targets=("to_q", "to_out.0")), bias=bias)
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return lora


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base", [stable_diffusion, stable_diffusion_xl, z_image])
def test_a_plain_pipeline_draws_the_same_picture_bit_for_bit(base: Callable, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline, network, draw = base()
    of_base = draw()
    lora = trained(network, bias=bias)
    with lora.acting():
        ours = draw()
    file = save_plain_lora(tmp_path / "lora", lora.as_peft(), network)
    assert file.name == "pytorch_lora_weights.safetensors"
    pipeline.load_lora_weights(file.parent)
    assert torch.equal(draw(), ours)
    assert not torch.allclose(ours, of_base, atol=1e-2)
    pipeline.unload_lora_weights()
    assert torch.equal(draw(), of_base)


@torch.inference_mode()
def test_an_alpha_over_rank_that_is_no_power_of_two_differs_in_the_last_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipeline, network, draw = stable_diffusion()
    lora = trained(network, alpha=3)
    with lora.acting():
        ours = draw()
    pipeline.load_lora_weights(save_plain_lora(tmp_path / "lora", lora.as_peft(), network).parent)
    torch.testing.assert_close(draw(), ours, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
def test_stable_cascade_gets_what_peft_reads(backbone: StableCascadeBackbone, bias: bool, tmp_path: Path) -> None:
    """Its pipelines have no `load_lora_weights`; peft puts the weights into its prior."""
    inputs = torch.randn(1, 4, 4, 4), torch.rand(1), backbone.encode_captions(["a fox"])
    lora = trained(backbone.network, bias=bias)
    with lora.acting():
        ours = backbone.predict(*inputs)
    file = save_plain_lora(tmp_path / "lora", lora.as_peft(), backbone.network)
    assert sorted(other.name for other in file.parent.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    peft.PeftModel.from_pretrained(backbone.network, file.parent)
    assert torch.equal(backbone.predict(*inputs), ours)
