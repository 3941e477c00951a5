"""The configurations of the published networks, as in the hub's config.json, and one that runs anywhere.

Nothing here holds a weight.
"""

from typing import Any

_BLOCKS = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")


def _stage_c(width: int, heads: int, shallow: int, deep: int) -> dict[str, Any]:
    return {
        "in_channels": 16,
        "out_channels": 16,
        "timestep_ratio_embedding_dim": 64,
        "patch_size": 1,
        "conditioning_dim": width,
        "block_out_channels": (width, width),
        "num_attention_heads": (heads, heads),
        "down_num_layers_per_block": (shallow, deep),
        "up_num_layers_per_block": (deep, shallow),
        "down_blocks_repeat_mappers": (1, 1),
        "up_blocks_repeat_mappers": (1, 1),
        "block_types_per_layer": (_BLOCKS, _BLOCKS),
        "clip_text_in_channels": 1280,
        "clip_text_pooled_in_channels": 1280,
        "clip_image_in_channels": 768,
        "clip_seq": 4,
        "dropout": (0.1, 0.1),
        "timestep_conditioning_type": ("sca", "crp"),
        "switch_level": (False,),
    }


PRIOR = _stage_c(2048, 32, 8, 24)
PRIOR_LITE = _stage_c(1536, 24, 4, 12)
DECODER: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "timestep_ratio_embedding_dim": 64,
    "patch_size": 2,
    "conditioning_dim": 1280,
    "block_out_channels": (320, 640, 1280, 1280),
    "num_attention_heads": (0, 0, 20, 20),
    "down_num_layers_per_block": (2, 6, 28, 6),
    "up_num_layers_per_block": (6, 28, 6, 2),
    "down_blocks_repeat_mappers": (1, 1, 1, 1),
    "up_blocks_repeat_mappers": (3, 3, 2, 2),
    "block_types_per_layer": (_BLOCKS[:2], _BLOCKS[:2], _BLOCKS, _BLOCKS),
    "clip_text_pooled_in_channels": 1280,
    "clip_seq": 4,
    "effnet_in_channels": 16,
    "pixel_mapper_in_channels": 3,
    "dropout": (0, 0, 0.1, 0.1),
    "timestep_conditioning_type": ("sca",),
}

TINY: dict[str, Any] = PRIOR | {
    "conditioning_dim": 64,
    "block_out_channels": (64, 64),
    "num_attention_heads": (2, 2),
    "down_num_layers_per_block": (1, 2),
    "up_num_layers_per_block": (2, 1),
    "clip_text_in_channels": 32,
    "clip_text_pooled_in_channels": 32,
}

TINY_DECODER: dict[str, Any] = DECODER | {
    "conditioning_dim": 32,
    "block_out_channels": (16, 32),
    "num_attention_heads": (0, 2),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "down_blocks_repeat_mappers": (1, 1),
    "up_blocks_repeat_mappers": (2, 1),
    "block_types_per_layer": (_BLOCKS[:2], _BLOCKS),
    "clip_text_pooled_in_channels": 32,
    "dropout": (0, 0.1),
}
VQGAN: dict[str, Any] = {"bottleneck_blocks": 12, "embed_dim": 384, "num_vq_embeddings": 8192}
TINY_VQGAN: dict[str, Any] = {"bottleneck_blocks": 1, "embed_dim": 16, "num_vq_embeddings": 32}

BIG_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
TINY_CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}

LLAVA_7B: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
    "text": {
        "vocab_size": 152_128,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
    },
}
TINY_LLAVA: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 84,
        "patch_size": 14,
    },
    "text": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}
