"""Low-rank weights as files that other tools read: what diffusers' `load_lora_weights` takes, or peft's own format."""

from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel, ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor, nn

from ppd.files import atomic_path

DIFFUSERS, PEFT = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"


def save_plain_lora(folder: Path, weights: Mapping[str, Tensor], network: nn.Module) -> Path:
    """Write `weights` (`LowRank.as_peft`) for the class of `network` to a new folder; returns the file of weights.

    UNets of Stable Diffusion (1.5, 2.x, XL) and the transformer of Z-Image get diffusers' file. Any other network, such
    as Stable Cascade's, whose pipelines load no LoRA, gets peft's two, which `PeftModel.from_pretrained` puts into it.
    """
    ready = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    with atomic_path(folder) as fresh:
        if isinstance(network, UNet2DConditionModel):
            StableDiffusionPipeline.save_lora_weights(fresh, unet_lora_layers=ready)
        elif isinstance(network, ZImageTransformer2DModel):
            ZImagePipeline.save_lora_weights(fresh, transformer_lora_layers=ready)
        else:
            _save_for_peft(fresh, ready)
    return next(folder / name for name in (DIFFUSERS, PEFT) if (folder / name).exists())


def _save_for_peft(folder: Path, weights: Mapping[str, Tensor]) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    layers = sorted({name.rpartition(".lora_")[0] for name in weights})
    rank = next(weight.shape[0] for name, weight in weights.items() if ".lora_A." in name)
    bias = any(name.endswith(".lora_B.bias") for name in weights)
    LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, lora_bias=bias).save_pretrained(folder)
    save_file({f"base_model.model.{name}": weight for name, weight in weights.items()}, folder / PEFT)
