"""Published weights that lie in other libraries' files, rewritten once as safetensors that transformers' classes load.

Pickles are read here alone, and only as tensors (`weights_only`).
"""

import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.rewards.aesthetic import AestheticHead

_NAMES = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def clip_from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an OpenCLIP ViT under the names of transformers' CLIPModel; InputError for a name it has not.

    OpenCLIP multiplies by its projections from the right and keeps queries, keys and values in one matrix.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer = _LAYER.fullmatch(name)
        if name in _NAMES:
            renamed[_NAMES[name]] = tensor
        elif name in _PROJECTIONS:
            renamed[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif layer is not None:
            tower = "vision_model" if layer[1] else "text_model"
            renamed |= _in_layer(f"{tower}.encoder.layers.{layer[2]}", layer[3], tensor)
        else:
            raise InputError(f"{name} is no weight of an OpenCLIP ViT that transformers' CLIPModel has a place for")
    return renamed


def _in_layer(prefix: str, name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = name.rsplit("_", 1)[1]
        return {
            f"{prefix}.self_attn.{part}_proj.{kind}": rows.contiguous()
            for part, rows in zip("qkv", tensor.chunk(3), strict=True)
        }
    module, _, kind = name.rpartition(".")
    if module not in _IN_LAYERS:
        raise InputError(f"{name} is no weight of a layer of an OpenCLIP ViT")
    return {f"{prefix}.{_IN_LAYERS[module]}.{kind}": tensor}


def convert_open_clip(checkpoint: Path, like: Path, out: Path) -> None:
    """Write a CLIP in the hub's layout: the weights of an OpenCLIP checkpoint such as HPS v2's, the rest from `like`.

    like: a CLIP of the same architecture in the hub's layout, for its config, tokenizer and image processor.
    """
    content = _read_tensors(checkpoint)
    weights: Mapping[str, Tensor] = content.get("state_dict", content)
    model = CLIPModel(CLIPConfig.from_pretrained(like))
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in clip_from_open_clip(weights).items()})
    except RuntimeError as error:
        raise InputError(f"its weights do not fit the config of {like}: {error}", file=checkpoint) from error
    with atomic_path(out) as fresh:
        shutil.copytree(
            like, fresh, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.pt", "*.msgpack", "*.h5")
        )
        model.save_pretrained(fresh)


def convert_aesthetic(checkpoint: Path, out: Path) -> None:
    """Write the safetensors of LAION's aesthetic head from its published .pth."""
    weights = _read_tensors(checkpoint)
    try:
        AestheticHead().load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"not the aesthetic head: {error}", file=checkpoint) from error
    with atomic_path(out) as fresh:
        save_file({name: tensor.float().contiguous() for name, tensor in weights.items()}, fresh)


def _read_tensors(checkpoint: Path) -> dict[str, Any]:
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"no file of tensors: {error}", file=checkpoint) from error
