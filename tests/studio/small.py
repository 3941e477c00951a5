"""The sticker world's own models with an adapter that learned nothing but changes everything, and few steps of noise.

`python tests/studio/small.py FOLDER PORT` serves a studio of them, for tests that end the process.
"""

import sys
from pathlib import Path

import torch
import uvicorn

from ppd.diffusion.adapter.checkpoint import adapter_config, load_adapter, save_adapter
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.personalizer import Personalizer
from ppd.settings import EmbeddingSettings, SamplingSettings, UserAttentionSettings
from ppd.studio.serve import Paths, open_studio
from ppd.users.whitening import Whitening
from ppd.vlm.transformers_backend import TransformersVlm

MODELS = Path(__file__).parents[2] / "data" / "models"
CAPTIONS = tuple(
    f"a sticker of a {thing}" for thing in ["fox", "panda", "frog", "banana", "rocket", "tulip", "castle", "key"]
)


def personalizer(adapter: Path) -> Personalizer:
    """Load the models; the adapter is written to its folder first."""
    backbone = StableCascadeBackbone.from_pretrained(MODELS / "prior")
    vlm = TransformersVlm.load(MODELS / "vlm")
    torch.manual_seed(0)
    made = UserAttention.beside(backbone, (1, 4), UserAttentionSettings(tokens_per_row=1, token_dim=8))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_adapter(adapter, made.state_dict(), adapter_config(made, backbone, "ppd"))
    whitening = Whitening.fit(torch.randn(32, 1, vlm.width), components=4)
    embedding = EmbeddingSettings(rows=(6,), components=4, max_new_tokens=4)
    return Personalizer(backbone, load_adapter(adapter, backbone), vlm, whitening, embedding, SamplingSettings(steps=2))


def paths(folder: Path, *, ingested: bool = False) -> Paths:
    """All of it under one folder."""
    captions = folder / "captions.txt"
    captions.parent.mkdir(parents=True, exist_ok=True)
    captions.write_text("\n".join(CAPTIONS))
    return Paths(
        folder=folder / "studio",
        verdicts=folder / "human.jsonl",
        choices=folder / "choices" if ingested else None,
        users=folder / "users",
        captions=captions,
    )


if __name__ == "__main__":
    home, port = Path(sys.argv[1]), int(sys.argv[2])
    with open_studio(personalizer(home / "adapter"), home / "adapter", paths(home)) as (_, app):
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
