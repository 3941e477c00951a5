"""`ppd judge` as a shell sees it, with a server as the judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.vlm.misbehaving_server import says, serving

PPD = Path(sys.executable).parent / "ppd"


@pytest.mark.slow
def test_a_server_is_asked_both_ways_about_a_folder_of_choices_and_two_images(tmp_path):
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "choices.csv").write_text("user,caption,image_a,image_b,choice\nann,a fox,red.png,blue.png,a\n")
    with serving() as server:
        server.acts = [says("Second."), says("first")]
        settings = {
            "url": server.url,
            "model": "m",
            "key_variable": "JUDGE_KEY",
            "price_per_million_prompt_tokens": 1.0,
            "price_per_million_answer_tokens": 1.0,
            "budget": 1.0,
            "tokens_per_image": 100,
            "concurrency": 1,
        }
        params = {"judge": {"prompt": "full-1", "server": settings}}
        (tmp_path / "params.yaml").write_text(json.dumps(params))
        command = [PPD, "judge", ".", "green.png", "red.png", "--caption", "a cat"]
        environment = os.environ | {"JUDGE_KEY": "sk-secret", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = {"shown": "Second.", "swapped": "first"}
    assert json.loads(done.stdout) == {"winner": "b", "p_a": None, "said": said}
    assert "2 questions to m" in done.stderr, "the cost is told before"
    assert "sk-secret" not in done.stdout + done.stderr
    assert len(list((tmp_path / "runs/answers").rglob("*.json"))) == 2
