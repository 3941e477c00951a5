"""Each published reward against its formula, written out in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from ppd.errors import InputError
from ppd.rewards.aesthetic import AestheticHead
from ppd.rewards.scorers import load_scorer, load_scorers
from ppd.settings import RewardSettings, Settings
from tests.tiny import write_aesthetic_head

CAPTIONS = ["a red fox", "an owl", "a blue key", "an owl"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(4, 40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def unit(clip_folder: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of images and captions by the library in float64: two [4, D]."""
    model = CLIPModel.from_pretrained(clip_folder).double()
    pixels = AutoImageProcessor.from_pretrained(clip_folder)(images=[Image.fromarray(i) for i in images])
    words = AutoTokenizer.from_pretrained(clip_folder)(CAPTIONS, padding="max_length", max_length=10)
    with torch.no_grad():
        seen = model.get_image_features(torch.tensor(np.stack(pixels["pixel_values"])).double()).pooler_output
        read = model.get_text_features(**{k: torch.tensor(v) for k, v in words.items()}).pooler_output
    return tuple((x / x.norm(dim=1, keepdim=True)).numpy() for x in (seen, read))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An aesthetic head with random weights, under the published names."""
    file = tmp_path_factory.mktemp("head") / "aesthetic.safetensors"
    write_aesthetic_head(file)
    return file


@pytest.mark.parametrize(("kind", "scale"), [("clip", 100.0), ("hps", 100.0), ("pick-score", np.exp(3.0))])
def test_a_score_is_a_scaled_cosine(clip_folder, images, unit, kind, scale):
    scores = load_scorer(RewardSettings(kind=kind, checkpoint=str(clip_folder)))(images, CAPTIONS)
    seen, read = unit
    np.testing.assert_allclose(scores, scale * (seen * read).sum(axis=1), atol=1e-4 * scale)
    assert scores.std() > 1e-2 * scale, "the scores do not depend on what is scored"


def test_the_aesthetic_rating_is_five_linear_maps_of_the_unit_vector(clip_folder, images, unit, head):
    settings = RewardSettings(kind="aesthetic", checkpoint=str(clip_folder), head=str(head))
    scores = load_scorer(settings)(images, CAPTIONS)
    weights = load_file(head)
    expected = unit[0]
    for number in (0, 2, 4, 6, 7):
        expected = expected @ weights[f"layers.{number}.weight"].double().numpy().T
        expected = expected + weights[f"layers.{number}.bias"].double().numpy()
    np.testing.assert_allclose(scores, expected[:, 0], atol=1e-4)
    assert scores.std() > 1e-3
    other_words = load_scorer(settings)(images, CAPTIONS[::-1])
    np.testing.assert_array_equal(scores, other_words)


def test_the_published_head_has_these_weights_and_no_others():
    shapes = {name: tuple(tensor.shape) for name, tensor in AestheticHead().state_dict().items()}
    assert [shapes[f"layers.{number}.weight"] for number in (0, 2, 4, 6, 7)] == [
        (1024, 768),
        (128, 1024),
        (64, 128),
        (16, 64),
        (1, 16),
    ]
    assert len(shapes) == 10


def test_a_head_for_another_clip_is_an_input_error(clip_folder, tmp_path):
    save_file(AestheticHead(768).state_dict(), tmp_path / "head.safetensors")
    for head in (tmp_path / "head.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(InputError, match="not an aesthetic head"):
            load_scorer(RewardSettings(kind="aesthetic", checkpoint=str(clip_folder), head=str(head)))


def test_scorers_are_asked_for_by_kind(clip_folder, images, head):
    rewards = (
        RewardSettings(kind="pick-score", checkpoint=str(clip_folder)),
        RewardSettings(kind="aesthetic", checkpoint=str(clip_folder), head=str(head)),
    )
    scorers = load_scorers(rewards)
    assert list(scorers) == ["pick-score", "aesthetic"]
    assert all(score(images, CAPTIONS).shape == (4,) for score in scorers.values())
    assert load_scorers(()) == {}


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([{"kind": "aesthetic", "checkpoint": "c"}], "needs a head"),
        ([{"kind": "clip", "checkpoint": "c", "head": "h"}], "takes no head"),
        ([{"kind": "clip", "checkpoint": "c"}] * 2, "each kind once"),
        ([{"kind": "image-reward", "checkpoint": "c"}], "Input should be 'clip'"),
    ],
)
def test_rewards_that_make_no_sense_are_refused_where_they_are_set(rewards, message):
    with pytest.raises(ValidationError, match=message):
        Settings(rewards=rewards)
