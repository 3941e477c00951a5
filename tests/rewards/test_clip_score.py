"""The CLIP score against the library's own model call."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from ppd.pretrain.text import caption_tokenizer, text_config
from ppd.rewards.clip_score import ClipScorer

CAPTIONS = ("a red fox", "a blue key", "an owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights in the hub's layout."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = caption_tokenizer(CAPTIONS)
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text_config(tokenizer, width=32, n_layers=1),
        vision_config=vision | {"image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_scores_are_the_models_cosines(folder: Path) -> None:
    scorer = ClipScorer.from_pretrained(folder)
    images = np.random.default_rng(0).integers(256, size=(3, 48, 40, 3), dtype=np.uint8)
    table = scorer.table(images, CAPTIONS)
    inputs = scorer.tokenizer(list(CAPTIONS), padding="max_length", max_length=10, return_tensors="pt")
    pixels = scorer.processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        logits = scorer.model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels["pixel_values"]
        ).logits_per_image
    expected = 100 * logits / scorer.model.logit_scale.exp()
    np.testing.assert_allclose(table, expected.numpy(), atol=1e-3)
    np.testing.assert_allclose(scorer(images, CAPTIONS), np.diag(table), atol=1e-4)


def test_batches_and_repeats_do_not_matter(folder: Path) -> None:
    scorer = ClipScorer.from_pretrained(folder)
    images = np.random.default_rng(1).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)
    captions = ["an owl", "a blue key", "an owl", "a red fox", "an owl"]
    whole = scorer(images, captions)
    scorer.batch_size = 2
    np.testing.assert_allclose(scorer(images, captions), whole, atol=1e-3)
    assert whole[0] == pytest.approx(scorer(images[:1], ["an owl"])[0], abs=1e-3)
