"""A Stable Cascade small enough to test with: the real classes, random weights, saved in the hub's layout."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeUNet
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from ppd.diffusion.stable_cascade import StableCascadeBackbone

WORDS = ["<pad>", "<end>", "<unk>", "a", "sticker", "of", "fox", "tree", "cat"]


class FlatCodec:
    """Images of 8x8 px to latents [4, 4, 4] and back, without learning anything."""

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(images.mean(dim=1, keepdim=True), 2) * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (nn.functional.pixel_shuffle(latents, 2).expand(-1, 3, -1, -1) + 1) / 2


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prior/, scheduler/, text_encoder/, tokenizer/ of a tiny Stable Cascade; dropout .1, as in the real one."""
    folder = tmp_path_factory.mktemp("tiny-cascade")
    torch.manual_seed(0)
    unet = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=16,
        patch_size=1,
        conditioning_dim=16,
        block_out_channels=(16, 24),
        num_attention_heads=(2, 3),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_in_channels=12,
        clip_text_pooled_in_channels=10,
        clip_image_in_channels=8,
        clip_seq=2,
        dropout=(0.1, 0.1),
    )
    text_config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        intermediate_size=24,
        projection_dim=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=8
    )
    unet.save_pretrained(folder / "prior")
    DDPMWuerstchenScheduler().save_pretrained(folder / "scheduler")
    CLIPTextModelWithProjection(text_config).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def codec() -> FlatCodec:
    return FlatCodec()


@pytest.fixture
def backbone(tiny_folder: Path, codec: FlatCodec) -> StableCascadeBackbone:
    return StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec)
