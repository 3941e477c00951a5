"""A Stable Cascade small enough to test with (`tests.tiny`), and a codec for it that learned nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import Pairs, TrainingData
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


@pytest.fixture
def data(backbone: Backbone) -> TrainingData:
    """Six people of two tastes: some choose bright images, the others dark ones; two support groups each."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(40, 4, 4, 4, generator=g) * 0.3
    latents[:20] += 0.8
    latents[20:] -= 0.8
    taste = torch.tensor([1.0, -1.0] * 3)
    embeddings = torch.randn(12, 2, 6, generator=g) * 0.2
    embeddings += taste.repeat_interleave(2)[:, None, None]

    def pairs(people: list[int], n: int) -> Pairs:
        user = torch.tensor(people)[torch.randint(len(people), (n,), generator=g)]
        bright, dark = torch.randint(20, (2, n), generator=g)
        likes_bright = taste[user] > 0
        dark = dark + 20
        return Pairs(
            user,
            torch.randint(2, (n,), generator=g),
            torch.where(likes_bright, bright, dark),
            torch.where(likes_bright, dark, bright),
        )

    return TrainingData(
        latents=latents,
        text=backbone.encode_captions(["a sticker of a fox", "a sticker of a tree"]),
        embeddings=embeddings,
        first=torch.arange(0, 13, 2),
        train=pairs([0, 1, 2, 3], 20),
        seen=pairs([0, 1, 2, 3], 16),
        held_out=pairs([4, 5], 16),
        pictures_hash="tastes",
        content_hash="tastes",
    )
