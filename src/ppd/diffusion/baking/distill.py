"""Fitting a plain LoRA to a user's predictions, as a plain tool would use it: switched on, with text guidance."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ppd.diffusion.adapter.lora import LowRank
from ppd.diffusion.baking.states import States
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.sampling.sampler import Guidance, strengths
from ppd.files import atomic_path
from ppd.seeding import generator
from ppd.settings import SamplingSettings
from ppd.stored_tensors import load_with_metadata, save_tensors


@dataclass(frozen=True)
class Fit:
    """How near a LoRA comes, over some states: squared norms, so that 0 is the user and `unexplained` 1 the base."""

    unexplained: float
    """|g − g*|² / |g_base − g*|²: the share of the user's effect that is missing. g: guided predictions."""
    relative_error: float
    """|g − g*| / |g*|."""


def predict_plainly(
    backbone: Backbone, lora: LowRank, states: States, rows: Tensor, settings: SamplingSettings
) -> Tensor:
    """What a plain tool's sampler would predict with `lora` at these states [B]: [B, C, h, w]."""
    device, empty = backbone.device, states.text[-1:].to(backbone.device)
    of = [strengths(t, settings, for_user=False) for t in states.t[rows]]
    places = [torch.tensor([place for place, its in enumerate(of) if its == each]) for each in dict.fromkeys(of)]
    parts = []
    for alike in (rows[each] for each in places):
        plain = Guidance(backbone, states.text[states.caption[alike]].to(device), empty, None, settings, None)
        with lora.acting():
            parts.append(plain.predict(states.x_t[alike].to(device), states.t[alike].to(device)))
    return torch.cat(parts)[torch.cat(places).argsort().to(device)]


@torch.no_grad()
def measure(backbone: Backbone, lora: LowRank, states: States, settings: SamplingSettings) -> Fit:
    """How near `lora` comes at all of `states`."""
    missing = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(len(states)).split(settings.batch_size):
        missing += _squared(predict_plainly(backbone, lora, states, rows, settings).cpu() - states.target[rows])
    effect, whole = _squared(states.base - states.target), _squared(states.target)
    return Fit((missing / effect).item(), (missing / whole).sqrt().item())


def distill(
    backbone: Backbone,
    lora: LowRank,
    states: States,
    settings: SamplingSettings,
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    every: int = 50,
) -> Iterator[tuple[int, float]]:
    """Minimise the mean squared difference from `states.target` by Adam; yields (step, share unexplained in a batch).

    Batches are functions of the step, so a killed run goes on exactly from `checkpoint`.
    """
    weights = dict(lora.named_parameters())
    optimizer = torch.optim.Adam(weights.values(), lr=learning_rate)
    effect = (states.base - states.target).square().mean()
    for step in range(_resume(checkpoint, weights, optimizer), steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(states), (settings.batch_size,), generator=generator("distill", step))
        optimizer.zero_grad()
        with lora.acting():
            predicted = predict_plainly(backbone, lora, states, rows, settings)
            loss = (predicted - states.target[rows].to(predicted.device)).square().mean() / effect
            loss.backward()
        optimizer.step()
        if (step + 1) % every == 0:
            _save(checkpoint, weights, optimizer, step + 1)
        yield step, loss.item()


def _save(checkpoint: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        state |= {f"adam.{name}.{key}": value for key, value in optimizer.state[weight].items()}
    with atomic_path(checkpoint) as fresh:
        save_tensors(state, fresh, {"step": str(step)})


@torch.no_grad()
def _resume(checkpoint: Path, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    if not checkpoint.exists():
        return 0
    state, metadata = load_with_metadata(checkpoint)
    for name, weight in weights.items():
        weight.copy_(state[f"weight.{name}"])
        adam = {key.rpartition(".")[2]: value for key, value in state.items() if key.startswith(f"adam.{name}.")}
        optimizer.state[weight] = {k: v if k == "step" else v.to(weight.device) for k, v in adam.items()}
    return int(metadata["step"])


def _squared(x: Tensor) -> Tensor:
    return x.double().square().sum()
