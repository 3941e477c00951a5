from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from ppd.stickers.pretrain.text import caption_tokenizer, text_config

CAPTIONS = ("a red fox", "a blue key", "an owl")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights in the hub's layout, its towers of different widths as ViT-H/14's are."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = caption_tokenizer(CAPTIONS)
    torch.manual_seed(0)
    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = CLIPConfig(
        text_config=text_config(tokenizer, width=32, n_layers=2) | {"hidden_act": "gelu", "intermediate_size": 128},
        vision_config=vision | {"image_size": 32, "patch_size": 16, "hidden_act": "gelu"},
        projection_dim=24,
    )
    model = CLIPModel(config)
    for parameter in model.parameters():  # larger than the library's initial ones, so that contents matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
