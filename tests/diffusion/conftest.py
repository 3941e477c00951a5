"""A Stable Cascade small enough to test with (`tests.tiny`), and a codec for it that learned nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from tests.tiny import word_tokenizer, write_prior

WORDS = ["a", "sticker", "of", "fox", "tree", "cat"]


class FlatCodec:
    """Images of 8x8 px to latents [4, 4, 4] and back, without learning anything."""

    encoder_fingerprint = "flat"
    pixels_per_latent = 2

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(images.mean(dim=1, keepdim=True), 2) * 2 - 1

    def decode(self, latents: Tensor, text: Text, randoms: list[torch.Generator]) -> Tensor:
        return (nn.functional.pixel_shuffle(latents, 2).expand(-1, 3, -1, -1) + 1) / 2


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prior/, scheduler/, text_encoder/, tokenizer/ of a tiny Stable Cascade."""
    folder = tmp_path_factory.mktemp("tiny-cascade")
    write_prior(folder, word_tokenizer(WORDS), channels=4)
    return folder


@pytest.fixture
def codec() -> FlatCodec:
    return FlatCodec()


@pytest.fixture(params=["fp32", "bf16"])
def in_either_precision(tiny_folder: Path, codec: FlatCodec, request: pytest.FixtureRequest) -> StableCascadeBackbone:
    """For what must hold to the last bit in both."""
    return StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec, precision=request.param)


@pytest.fixture
def backbone(tiny_folder: Path, codec: FlatCodec) -> StableCascadeBackbone:
    return StableCascadeBackbone.from_pretrained(tiny_folder, codec=codec)
