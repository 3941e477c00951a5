import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableCascadeDecoderPipeline

from ppd.diffusion.model.cascade_codec import STEPS, CascadeCodec
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.sampling.sampler import Request, sample
from ppd.errors import InputError
from ppd.seeding import generator
from ppd.settings import SamplingSettings
from tests.tiny import word_tokenizer, write_codec, write_prior

FOX, TREE = "a sticker of a fox", "a sticker of a tree"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Stable Cascade: the prior's repository, and the decoder's in its codec/."""
    folder = tmp_path_factory.mktemp("cascade")
    write_prior(folder, word_tokenizer(["a", "sticker", "of", "fox", "tree"]), channels=16)
    write_codec(folder / "codec")
    return folder


@pytest.fixture(scope="module")
def backbone(folder: Path) -> StableCascadeBackbone:
    return StableCascadeBackbone.from_pretrained(folder)


def test_the_folder_says_which_codec_it_holds(backbone: StableCascadeBackbone) -> None:
    assert isinstance(backbone.codec, CascadeCodec)
    images = torch.rand(2, 3, 96, 96)
    latents = backbone.encode_images(images)
    assert latents.shape == (2, backbone.latent_channels, 3, 3)
    assert torch.equal(latents, backbone.codec.encoder(images)), "nothing scales them further"


def test_a_prior_without_a_codec_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "prior-only"
    shutil.copytree(folder, alone, ignore=shutil.ignore_patterns("codec"))
    with pytest.raises(InputError, match=r"(?s)prior-only/codec: no image codec.*stabilityai/stable-cascade"):
        StableCascadeBackbone.from_pretrained(alone)


def test_decoding_is_diffusers_own_pipeline_bit_for_bit(backbone: StableCascadeBackbone) -> None:
    codec, captions = backbone.codec, [FOX, TREE]
    assert isinstance(codec, CascadeCodec)
    latents = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    ours = backbone.decode_latents(
        latents, backbone.encode_captions(captions), [generator("decode", c, 3) for c in captions]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableCascadeDecoderPipeline(
            codec.decoder, backbone.tokenizer, backbone.text_encoder, codec.scheduler, codec.vqgan
        )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        latents,
        captions,
        num_inference_steps=STEPS,
        generator=[generator("decode", c, 3) for c in captions],
        output_type="pt",
    ).images
    assert ours.shape == (2, 3, 128, 128)
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.01


def test_an_image_depends_on_its_request_alone_also_through_the_decoder(backbone: StableCascadeBackbone) -> None:
    """Up to a step of 255: a matrix product of two rows may round them differently."""
    settings = SamplingSettings(precision="fp32", steps=2, latent_size=(3, 3), sampler="ddpm", batch_size=2)
    requests = [Request(FOX, 0), Request(TREE, 0), Request(FOX, 1)]
    together = list(sample(backbone, requests, settings))
    alone = [next(iter(sample(backbone, [request], settings))) for request in requests]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(together, alone, strict=True))
    assert len({image.tobytes() for image in together}) == 3


def test_in_bf16_the_decoder_keeps_its_timestep_in_fp32(folder: Path, backbone: StableCascadeBackbone) -> None:
    in_bf16 = StableCascadeBackbone.from_pretrained(folder, precision="bf16")
    assert isinstance(in_bf16.codec, CascadeCodec)
    assert in_bf16.codec.decoder.dtype == torch.bfloat16
    latents, text = torch.randn(1, 16, 3, 3), backbone.encode_captions([FOX])
    exact = backbone.decode_latents(latents, text, [generator(1)])
    rounded = in_bf16.decode_latents(latents, text, [generator(1)])
    assert (rounded - exact).abs().mean() < 0.01
