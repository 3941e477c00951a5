import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.pretrain.vlm_architecture import ArchitectureSettings, build_model, build_processor
from ppd.settings import ServerSettings
from ppd.simulation.world import caption
from ppd.users.support import Pair
from ppd.vlm.prompts import Candidates
from ppd.vlm.server_judge import ServerJudge
from ppd.vlm.transformers_backend import TransformersVlm
from tests.vlm.misbehaving_server import KEY, serving


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


@pytest.fixture
def server():
    with serving() as told:
        yield told


@pytest.fixture
def judge(server, tmp_path, monkeypatch):
    """A judge that asks the server; keyword arguments change its settings."""
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def asking(**changes: object) -> ServerJudge:
        settings = {
            "url": server.url,
            "model": "some-model",
            "key_variable": "JUDGE_KEY",
            "price_per_million_prompt_tokens": 2.0,
            "price_per_million_answer_tokens": 10.0,
            "budget": 1.0,
            "tokens_per_image": 100,
            "concurrency": 1,
            "timeout_s": 60.0,
            "attempts": 3,
            "first_wait_s": 0.01,
        }
        return ServerJudge(ServerSettings(**(settings | changes)), "full-1", tmp_path / "answers")

    return asking


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that signs itself, with its key."""
    file = tmp_path_factory.mktemp("tls") / "self-signed.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True)
    with file.open("a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file
