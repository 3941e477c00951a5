"""Every recipe at about a hundredth of its length: what it leaves loads, and has begun to learn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ppd.diffusion.model.codec import ImageCodec
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.sampling.sampler import Request, sample
from ppd.errors import InputError
from ppd.pretrain import recipes
from ppd.pretrain.attribute_classifier import AttributeClassifierSettings, train_attribute_classifier
from ppd.pretrain.clip import CAPTIONS, ClipSettings, train_clip
from ppd.pretrain.codec import CodecSettings, heldout_psnr_db, train_codec
from ppd.pretrain.degrade import degrade
from ppd.pretrain.loop import LoopSettings
from ppd.pretrain.pictures import render_tensor, to_bytes
from ppd.pretrain.prior import PriorSettings, build_prior, train_prior, velocity
from ppd.pretrain.quality import attribute_classifier_measures, clip_measures, mean, prior_quality, share
from ppd.rewards.clip_score import ClipScorer
from ppd.settings import SamplingSettings
from ppd.simulation import seeds
from ppd.simulation.attribute_classifier import AttributeClassifier, embed, read
from ppd.simulation.render import Atlas, render
from ppd.simulation.world import CONCEPTS, FACTORS, STYLES, sample_scenes

CPU = torch.device("cpu")


def _loop(steps: int, **changes: object) -> LoopSettings:
    values = {"steps": steps, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 2, "record_every_steps": 10}
    return LoopSettings.model_validate(values | {"bf16": False} | changes)


CODEC = CodecSettings(width=16, component_images=256, loop=_loop(20))
PRIOR = PriorSettings(
    channels=(32, 64),
    layers=(1, 1),
    conditioning_dim=32,
    text_width=32,
    text_layers=1,
    pool_size=128,
    pool_steps=10,
    compile=False,
    codec=CODEC,
    loop=_loop(30),
)


@pytest.fixture(scope="module")
def codec(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> ImageCodec:
    folder = tmp_path_factory.mktemp("codec")
    return train_codec(atlas, CODEC, folder / "codec", folder / "state", CPU)


@pytest.fixture(scope="module")
def prior_folder(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    train_prior(atlas, PRIOR, folder / "prior", folder / "work", CPU)
    return folder / "prior"


@pytest.fixture(scope="module")
def classifier(atlas: Atlas, codec: ImageCodec, tmp_path_factory: pytest.TempPathFactory) -> AttributeClassifier:
    folder = tmp_path_factory.mktemp("reader")
    train_attribute_classifier(
        atlas, codec, AttributeClassifierSettings(width=16, loop=_loop(40)), folder / "reader", folder / "state", CPU
    )
    return AttributeClassifier.from_pretrained(folder / "reader").eval()


def test_further_rounds_go_on_from_the_one_before_and_after_a_kill(
    atlas: Atlas, codec: ImageCodec, tmp_path: Path
) -> None:
    """One curve for all; the weights are those of a run that nothing has disturbed."""
    codec.save_pretrained(tmp_path / "codec")
    short = PRIOR.model_copy(update={"loop": _loop(10), "further_rounds": (_loop(10, seed=1), _loop(5, seed=2))})

    def train(name: str, settings: PriorSettings) -> dict[str, torch.Tensor]:
        train_prior(atlas, settings, tmp_path / name, tmp_path / f"{name}-work", CPU, tmp_path / "codec")
        return load_file(tmp_path / name / "prior/diffusion_pytorch_model.safetensors")

    whole = train("whole", short)
    first = train("killed", short.model_copy(update={"further_rounds": short.further_rounds[:1]}))
    again = train("killed", short)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(not torch.equal(whole[name], first[name]) for name in whole)
    steps = [line.split(",")[0] for line in (tmp_path / "whole/loss_curve.csv").read_text().splitlines()[1:]]
    assert steps == ["10", "20", "25"]


def test_the_codec_gains_on_its_linear_start(atlas: Atlas, codec: ImageCodec) -> None:
    linear = ImageCodec(width=16)
    linear.set_components(render_tensor(atlas, sample_scenes(seeds.rng("pretrain", "codec", 0, "components"), 256)))
    assert heldout_psnr_db(codec, atlas, 64).mean() > heldout_psnr_db(linear.eval(), atlas, 64).mean()


def test_the_prior_loads_as_a_backbone_and_draws(prior_folder: Path) -> None:
    assert {"prior", "scheduler", "text_encoder", "tokenizer", "codec"} <= {
        path.name for path in prior_folder.iterdir()
    }
    assert not [path for path in prior_folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
    backbone = StableCascadeBackbone.from_pretrained(prior_folder)
    assert backbone.process.prediction == "v_prediction"
    text = backbone.encode_captions([*CAPTIONS, ""])
    assert len(torch.unique(text.pooled, dim=0)) == len(CAPTIONS) + 1
    (image,) = sample(backbone, [Request(CAPTIONS[0], 0)], SamplingSettings(precision="fp32", steps=2, batch_size=1))
    assert image.shape == (64, 64, 3)


def test_the_prior_learns_and_resumes(atlas: Atlas, prior_folder: Path, tmp_path: Path) -> None:
    losses = np.loadtxt(prior_folder / "loss_curve.csv", delimiter=",", skiprows=1)[:, 1]
    assert losses[-1] < 0.97 * losses[0]
    for steps in (5, 10):  # decay depends on the number of steps: keep the rate flat
        flat = PRIOR.model_copy(update={"pool_steps": 5, "loop": _loop(steps, decay_share=0, record_every_steps=5)})
        train_prior(atlas, flat, tmp_path / "cut", tmp_path / "cut_work", CPU)
    train_prior(atlas, flat, tmp_path / "whole", tmp_path / "whole_work", CPU)
    weights = [StableCascadeBackbone.from_pretrained(tmp_path / name).unet.state_dict() for name in ("cut", "whole")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_codec_that_is_there_is_taken_and_none_trained(atlas: Atlas, prior_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    one_step = PRIOR.model_copy(update={"loop": _loop(1)})
    train_prior(atlas, one_step, tmp_path / "prior", tmp_path / "work", CPU, prior_folder / "codec")
    weights = "codec/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "prior" / weights).read_bytes() == (prior_folder / weights).read_bytes()
    assert not list((tmp_path / "work").glob("codec*"))


def test_a_new_prior_predicts_nothing_and_ignores_t() -> None:
    torch.manual_seed(0)
    unet = build_prior(PRIOR, latent_channels=8).eval()
    nn_output = unet(
        torch.randn(2, 8, 16, 16),
        torch.tensor([0.1, 0.9]),
        torch.randn(2, 1, 32),
        torch.randn(2, 10, 32),
        torch.zeros(2, 1, 32),
    ).sample
    assert nn_output.abs().max() == 0


def test_noise_follows_from_velocity() -> None:
    """ε = √(1−ᾱ)·x_t + √ᾱ·v, as the backbone reads a network that predicts v."""
    x_0, noise = torch.randn(2, 3, 8, 4, 4, dtype=torch.float64)
    alpha_bar = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
    a = alpha_bar[:, None, None, None]
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    torch.testing.assert_close((1 - a).sqrt() * x_t + a.sqrt() * velocity(x_0, noise, alpha_bar), noise)


def test_the_reader_begins_to_read(atlas: Atlas, classifier: AttributeClassifier) -> None:
    scenes = sample_scenes(seeds.rng("evaluation", "test reader"), 128)
    seen = read(classifier, render(atlas, scenes))
    assert seen.concept.shape == (128, len(CONCEPTS))
    assert seen.factors.shape == (128, len(FACTORS))
    np.testing.assert_allclose(seen.style.sum(axis=1), 1, rtol=1e-5)
    assert np.corrcoef(seen.factors[:, 0], scenes.factors[:, 0])[0, 1] > 0.5  # lightness is the easiest


def test_reading_needs_no_company(atlas: Atlas, classifier: AttributeClassifier) -> None:
    """An image reads the same alone and in a batch; none at all is fine; a wrong size is named."""
    images = render(atlas, sample_scenes(seeds.rng("evaluation", "test reader"), 5))
    np.testing.assert_allclose(
        read(classifier, images[2:3]).factors[0], read(classifier, images, 2).factors[2], atol=1e-5
    )
    assert read(classifier, []).style.shape == (0, len(STYLES))
    assert embed(classifier, images).shape == (5, 256)
    with pytest.raises(InputError, match="32"):
        read(classifier, [np.zeros((32, 32, 3), np.uint8)])


def test_clip_learns_and_loads(atlas: Atlas, codec: ImageCodec, tmp_path: Path) -> None:
    settings = ClipSettings(
        vision_width=32,
        vision_layers=1,
        text_width=32,
        text_layers=1,
        patch_px=16,
        loop=_loop(60, batch_size=64, learning_rate=3e-3),
    )
    train_clip(atlas, codec, settings, tmp_path / "clip", tmp_path / "state", CPU)
    (measure,) = clip_measures(ClipScorer.from_pretrained(tmp_path / "clip"), atlas, 256)
    assert measure.value > 2 / len(CONCEPTS)  # chance is 1 / 32


def test_damage_leaves_a_third_alone_and_the_rest_recognisable(atlas: Atlas, codec: ImageCodec) -> None:
    images = render_tensor(atlas, sample_scenes(seeds.rng("evaluation", "test damage"), 90))
    damaged = degrade(images, codec, torch.Generator().manual_seed(0))
    error = (damaged - images).abs().flatten(1).mean(dim=1)
    assert 15 < (error == 0).sum() < 45
    assert 0 < error.max() < 0.15
    assert damaged.min() >= 0
    assert damaged.max() <= 1


def test_quality_is_measured(
    atlas: Atlas, prior_folder: Path, classifier: AttributeClassifier, codec: ImageCodec
) -> None:
    sampling = SamplingSettings(precision="fp32", steps=2, text_guidance=1.0, batch_size=16)
    clip = ClipScorer.from_pretrained(recipes.MODELS / "clip")
    measures, images = prior_quality(prior_folder, classifier, clip, atlas, sampling, images_per_caption=1)
    assert images.shape == (len(CONCEPTS), 64, 64, 3)
    shares = [m.value for m in measures if m.name.startswith("share of")]
    assert sum(shares) == pytest.approx(1)
    assert all(
        m.low <= m.value <= m.high for m in [*measures, *attribute_classifier_measures(classifier, codec, atlas, 64)]
    )


def test_intervals() -> None:
    """Wilson's interval of 0 of 10 is [0, .278] (Newcombe 1998); a mean's is ± 1.96 SD/√n."""
    none = share("x", np.zeros(10, dtype=bool))
    assert (none.low, none.high) == (pytest.approx(0, abs=1e-9), pytest.approx(0.2775, abs=1e-3))
    centred = mean("x", np.array([1.0, 3.0]))
    assert centred.high - 2 == pytest.approx(1.96 * 2**0.5 / 2**0.5, abs=1e-2)


def test_settings_beside_the_weights_make_the_same_run(prior_folder: Path) -> None:
    assert recipes.recipe_settings(PriorSettings, prior_folder / "settings.json", None) == PRIOR
    assert recipes.recipe_settings(PriorSettings, prior_folder / "settings.json", 7).loop.steps == 7


def test_cards_and_figures_lie_beside_the_weights(
    atlas: Atlas, prior_folder: Path, classifier: AttributeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_attribute_classifier", lambda: classifier)
    monkeypatch.setattr(recipes.Atlas, "load", lambda folder: atlas)
    recipes.check("prior", prior_folder, n=32, text_guidance=1.0)
    figures = json.loads((prior_folder / "quality.json").read_text())
    card = (prior_folder / "README.md").read_text()
    assert {"concept accuracy", "codec PSNR, dB"} <= {figure["name"] for figure in figures}
    assert "## Limits" in card
    assert (prior_folder / "samples.png").exists()


def test_pictures_survive_the_way_to_tensors_and_back(atlas: Atlas) -> None:
    images = render(atlas, sample_scenes(seeds.rng("evaluation", "test bytes"), 4))
    scenes = sample_scenes(seeds.rng("evaluation", "test bytes"), 4)
    np.testing.assert_array_equal(to_bytes(render_tensor(atlas, scenes)), images)
