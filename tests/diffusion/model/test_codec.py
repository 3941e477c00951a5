"""The image codec: what its latents are, and that it survives a save."""

from pathlib import Path

import pytest
import torch

from ppd.diffusion.model.codec import ImageCodec, psnr_db
from ppd.pretrain.pictures import render_tensor
from ppd.simulation import seeds
from ppd.simulation.render import Atlas
from ppd.simulation.world import sample_scenes


@pytest.fixture(scope="module")
def images(atlas: Atlas) -> torch.Tensor:
    return render_tensor(atlas, sample_scenes(seeds.rng("evaluation", "test codec"), 256))


@pytest.fixture(scope="module")
def codec(images: torch.Tensor) -> ImageCodec:
    torch.manual_seed(0)
    codec = ImageCodec(latent_channels=8, width=16)
    codec.set_components(images)
    return codec.eval()


@torch.no_grad()
def test_latents_are_centred_uncorrelated_and_of_unit_variance(codec: ImageCodec, images: torch.Tensor) -> None:
    latents = codec.encode(images)
    assert latents.shape == (256, 8, 16, 16)
    covariance = torch.cov(latents.transpose(0, 1).flatten(1))
    spread = covariance.diag()
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert spread.mean() == pytest.approx(1, abs=1e-3)
    assert (covariance - spread.diag()).abs().max() < 1e-3
    assert (spread.diff() <= 1e-4).all()  # most telling first


@torch.no_grad()
def test_before_training_it_is_the_best_linear_codec(codec: ImageCodec, images: torch.Tensor) -> None:
    """With as many channels as a patch has values nothing is lost; with eight, no other projection loses less."""
    whole = ImageCodec(latent_channels=48, width=16)
    whole.set_components(images.double().float())
    assert (whole(images) - images).abs().max() < 1e-2
    kept = psnr_db(images, codec(images)).mean()
    pooled = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, 4), scale_factor=4)
    assert kept > psnr_db(images, pooled).mean() + 3


@torch.no_grad()
def test_it_survives_a_save(codec: ImageCodec, images: torch.Tensor, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    again = ImageCodec.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(images[:4]), codec(images[:4]), rtol=0, atol=0)


def test_psnr_is_in_decibels() -> None:
    grey = torch.full((2, 3, 8, 8), 0.5)
    torch.testing.assert_close(psnr_db(grey, grey + 0.1), torch.full((2,), 20.0))
