"""Baking from start to a folder: states, closed form, distillation, and how near it came on captions left out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import TextColumn
from torch import Tensor

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.adapter.plain_lora import save_plain_lora
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.baking.closed_form import start_in_closed_form
from ppd.diffusion.baking.distill import Fit, distill, measure
from ppd.diffusion.baking.states import States, visited
from ppd.diffusion.model.backbone import Backbone
from ppd.files import atomic_path, write_json
from ppd.progress import progress_bar
from ppd.resumable import resumable
from ppd.settings import LoraSettings, SamplingSettings
from ppd.stored_tensors import load_tensors, save_tensors

ABOUT = "baking.json"


@dataclass(frozen=True)
class Recipe:
    """How a LoRA is baked."""

    rank: int = 16
    targets: tuple[str, ...] = LoraSettings().targets
    bias: bool = False
    """B gets a bias, as peft's `lora_bias`: diffusers reads it, other tools may not."""
    steps: int = 300
    learning_rate: float = 2e-3
    images: int = 64
    """Samplings for the user that it is fitted to, over the captions that are not left out; every step is a state."""
    held_out_images: int = 16


def bake(
    backbone: Backbone,
    adapter: UserAttention,
    user: Tensor,
    captions: Sequence[str],
    sampling: SamplingSettings,
    recipe: Recipe,
    out: Path,
    unfinished: Path,
    *,
    identity: str,
) -> dict[str, Fit]:
    """Leave in `out` a plain LoRA that draws for `user` [rows, dim], and what made it; returns how near it comes.

    It is fitted to a tool that adds it to the base and guides by text with sampling.text_guidance; with another
    guidance it is as near as it happens to be. Every fifth caption is left out and only measured. identity: names the
    adapter. A killed run goes on in `unfinished`.
    """
    left_out = sorted(set(captions))[::5]
    fitted = [caption for caption in sorted(set(captions)) if caption not in left_out] or left_out
    described = [backbone.fingerprint, identity, sampling, asdict(recipe), sorted(set(captions)), user.tolist()]
    with resumable(unfinished, described) as work:
        states = _states(work, "fitted", backbone, adapter, user, fitted, recipe.images, sampling)
        held_out = _states(work, "held-out", backbone, adapter, user, left_out, recipe.held_out_images, sampling)
        lora, fits = _start(backbone, recipe), {}
        start_in_closed_form(
            lora, backbone, adapter, user, states, strength=sampling.user_guidance, size=sampling.batch_size
        )
        fits["closed form"] = measure(backbone, lora, held_out, sampling)
        adapter.train()  # a CPU's attention in bf16 is slow backwards otherwise
        with progress_bar(TextColumn("{task.fields[now]}")) as progress:
            task = progress.add_task("bake", total=recipe.steps, now="")
            for step, unexplained in distill(
                backbone,
                lora,
                states,
                sampling,
                steps=recipe.steps,
                learning_rate=recipe.learning_rate,
                checkpoint=work / "distilled.safetensors",
            ):
                progress.update(task, completed=step + 1, now=f"{unexplained:.0%} of the user missing")
        adapter.eval()
        fits["distilled"] = measure(backbone, lora, held_out, sampling)
        about: dict[str, object] = {"base": backbone.fingerprint, "adapter": identity, "recipe": asdict(recipe)}
        about |= {"text_guidance": sampling.text_guidance, "user_guidance": sampling.user_guidance}
        about |= {"held_out": {name: asdict(fit) for name, fit in fits.items()}, "held_out_captions": left_out}
        with atomic_path(out) as fresh:
            save_plain_lora(fresh, lora.as_peft(), backbone.network)
            write_json(fresh / ABOUT, about)
    return fits


def _states(
    work: Path,
    name: str,
    backbone: Backbone,
    adapter: UserAttention,
    user: Tensor,
    captions: Sequence[str],
    n: int,
    sampling: SamplingSettings,
) -> States:
    file = work / f"{name}.safetensors"
    if not file.exists():
        repeated = [captions[i % len(captions)] for i in range(n)]
        with atomic_path(file) as fresh:
            save_tensors(visited(backbone, adapter, user, repeated, sampling, key=name).tensors(), fresh)
    return States.of(load_tensors(file))


def _start(backbone: Backbone, recipe: Recipe) -> LowRank:
    settings = LoraSettings(rank=recipe.rank, alpha=recipe.rank, targets=recipe.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LowRank(backbone.network, settings, bias=recipe.bias).to(backbone.device)
