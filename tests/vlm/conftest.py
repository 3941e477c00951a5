import io

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.pretrain.vlm_architecture import ArchitectureSettings, build_model, build_processor
from ppd.simulation.world import caption
from ppd.users.support import Pair
from ppd.vlm.conversation import Candidates
from ppd.vlm.transformers_backend import TransformersVlm


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny LLaVA-OneVision with random weights, in the hub's layout. Four patches an image."""
    folder = tmp_path_factory.mktemp("vlm")
    settings = ArchitectureSettings(patch_px=32, vision_width=32, vision_layers=2, width=32, layers=3, heads=2)
    torch.manual_seed(0)
    processor = build_processor(settings)
    model = build_model(settings, processor.tokenizer)
    for parameter in model.parameters():  # larger than the library's initial ones, so that contents matter
        parameter.data.mul_(3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vlm(checkpoint):
    return TransformersVlm.load(checkpoint, batch_size=3)


@pytest.fixture
def picture():
    """A new encoded image at every call."""
    rng = np.random.default_rng(0)

    def draw() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    return draw


@pytest.fixture
def pairs(picture):
    """k pairs with captions of different lengths."""

    def some(k: int) -> list[Pair]:
        captions = [caption(i) if i % 2 else f"{caption(i)} and {caption(i + 1)}" for i in range(k)]
        return [Pair(text, picture(), picture()) for text in captions]

    return some


@pytest.fixture
def candidates(picture):
    return lambda concept=0: Candidates(caption(concept), picture(), picture())
