"""The nano Z-Image: its batched forward is the library's, it learns, resumes, and loads as any Z-Image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import AutoTokenizer, Qwen3Model

from ppd.diffusion.model.codec import ImageCodec
from ppd.errors import InputError
from ppd.pretrain import recipes
from ppd.pretrain.flow_prior import FlowPriorSettings, build_flow_prior, build_text_encoder, train_flow_prior
from ppd.pretrain.latent_pool import CAPTIONS
from ppd.pretrain.loop import LoopSettings
from ppd.pretrain.text import chat_tokenizer, tokenize
from ppd.pretrain.z_image_batch import BatchedZImage
from ppd.simulation.attribute_classifier import AttributeClassifier
from ppd.simulation.render import Atlas

CPU = torch.device("cpu")


def _settings(steps: int, **changes: object) -> FlowPriorSettings:
    values = {"steps": steps, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 2, "record_every_steps": 10}
    loop = LoopSettings.model_validate(values | {"bf16": False, "ema_decay": 0.9} | changes)
    return FlowPriorSettings(width=32, layers=1, text_width=32, pool_size=128, pool_steps=10, compile=False, loop=loop)


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec") / "codec"
    torch.manual_seed(0)
    ImageCodec(width=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(atlas: Atlas, codec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("flow")
    (where / "work").mkdir()
    train_flow_prior(atlas, codec_folder, _settings(60), where / "prior", where / "work", CPU)
    return where / "prior"


@torch.no_grad()
def test_the_batched_forward_is_that_of_diffusers() -> None:
    """Rows of different captions, lengths and σ; the pipeline's own reading of the output: negated, time 1 − σ."""
    torch.manual_seed(0)
    settings, tokenizer = _settings(1), chat_tokenizer(CAPTIONS)
    transformer, encoder = build_flow_prior(settings, 8).eval(), build_text_encoder(settings, tokenizer).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pipeline = ZImagePipeline(FlowMatchEulerDiscreteScheduler(), None, encoder, tokenizer, transformer)
    captions = [CAPTIONS[0], CAPTIONS[8], ""]
    texts, _ = pipeline.encode_prompt(list(captions), do_classifier_free_guidance=False)
    assert len({len(text) for text in texts}) == 3
    x, sigma = torch.randn(3, 8, 16, 16), torch.tensor([0.2, 0.7, 1.0])
    output = transformer(list(x[:, :, None].unbind(0)), 1 - sigma, texts, return_dict=False)[0]
    tokens = tokenize(tokenizer, captions)
    batched = BatchedZImage(transformer, 16)
    hidden = encoder(**tokens, output_hidden_states=True).hidden_states[-2]
    velocity = batched.velocity(x, sigma, batched.captions(hidden, tokens["attention_mask"]))
    expected = -torch.stack(output).squeeze(2)
    assert expected.std() > 0.1
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-4)


def test_images_that_would_need_padding_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        BatchedZImage(build_flow_prior(_settings(1), 8), 12)


def test_a_new_prior_predicts_nothing() -> None:
    torch.manual_seed(0)
    batched = BatchedZImage(build_flow_prior(_settings(1), 8), 16)
    text = batched.captions(torch.randn(2, 9, 32), torch.ones(2, 9))
    assert batched.velocity(torch.randn(2, 8, 16, 16), torch.tensor([0.1, 0.9]), text).abs().max() == 0


def test_it_learns(folder: Path) -> None:
    losses = np.loadtxt(folder / "loss_curve.csv", delimiter=",", skiprows=1)[:, 1]
    assert losses[-1] < 0.8 * losses[0]


def test_it_loads_and_draws_by_the_pipeline_of_diffusers(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
    transformer = ZImageTransformer2DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler"),
        None,
        Qwen3Model.from_pretrained(folder, subfolder="text_encoder"),
        AutoTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"height": 128, "width": 128, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    drawn = [pipeline(caption, latents=noise, **options).images for caption in CAPTIONS[:2]]
    assert drawn[0].shape == noise.shape
    assert not torch.equal(*drawn), "the caption is read"
    image = ImageCodec.from_pretrained(folder, subfolder="codec").decode(drawn[0])
    assert image.shape == (1, 3, 64, 64)


def test_it_resumes(atlas: Atlas, codec_folder: Path, tmp_path: Path) -> None:
    for name, lengths in (("cut", (5, 10)), ("whole", (10,))):
        (tmp_path / f"{name}_work").mkdir()
        for steps in lengths:  # decay depends on the number of steps: keep the rate flat
            flat = _settings(steps, decay_share=0, record_every_steps=5)
            train_flow_prior(atlas, codec_folder, flat, tmp_path / name, tmp_path / f"{name}_work", CPU)
    cut, whole = (
        ZImageTransformer2DModel.from_pretrained(tmp_path / name, subfolder="transformer").state_dict()
        for name in ("cut", "whole")
    )
    for name, value in cut.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-4, atol=1e-5)


def test_it_is_a_base_of_this_project_and_gets_a_card(
    atlas: Atlas, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    reader = AttributeClassifier(width=16, n_blocks=1).eval()
    monkeypatch.setattr(recipes, "_attribute_classifier", lambda: reader)
    monkeypatch.setattr(recipes.Atlas, "load", lambda folder: atlas)
    measures = recipes.check("flow-prior", folder, n=32, text_guidance=1.0)
    assert next(measure.n for measure in measures if measure.name == "concept accuracy") == 32
    card = (folder / "README.md").read_text()
    assert "# Nano Z-Image" in card
    assert "`ppd pretrain prior --kind flow --settings settings.json`" in card
    assert "on a CPU core" in card
    assert (folder / "samples.png").exists()
