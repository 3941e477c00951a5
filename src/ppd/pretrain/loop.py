"""The training loop that the recipes share: seeded by step, resumable after a kill at any moment, averaged weights."""

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pydantic import Field
from rich.console import Console
from rich.progress import TextColumn, TimeElapsedColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ppd.bf16_on_cpu import lacks_bf16
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.progress import progress_bar
from ppd.settings import Component


class LoopSettings(Component):
    """How long and how fast to train. The rate rises over `warmup_steps`, stays, and falls to 0 over the last part."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(100, ge=0)
    decay_share: float = Field(0.3, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls linearly."""
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    """The published weights average the last ~1 / (1 − ema_decay) steps."""
    record_every_steps: int = Field(50, ge=1)
    checkpoint_every_s: float = Field(120, ge=0)
    publish_every_s: float = Field(600, gt=0)
    seed: int = 0
    bf16: bool = True
    """Run the network under bf16 autocast; weights, optimiser and loss stay in fp32."""


@dataclass(frozen=True)
class Record:
    """One row of the loss curve: means over the steps since the last one."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float


Curve = list[Record]


def after(before: Curve, curve: Curve) -> Curve:
    """Two rounds as one curve: steps and seconds of the second go on from the first."""
    if not before:
        return curve
    last = before[-1]
    later = [replace(row, step=last.step + row.step, seconds=round(last.seconds + row.seconds, 1)) for row in curve]
    return before + later


HARDWARE = "hardware.txt"
"""Beside weights: what they were trained on, for the card."""


def hardware(device: torch.device) -> str:
    """A device by its name, such as "one NVIDIA H100 80GB HBM3"."""
    return f"one {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "a CPU core"


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Run networks in bf16 inside, where that is wanted and the device has instructions for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 and not lacks_bf16(device))


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Warm-up, plateau, linear decay: the rate of the step-th update, counted from 0."""
    warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    decay_steps = settings.decay_share * settings.steps
    decay = min(1.0, (settings.steps - step) / decay_steps) if decay_steps else 1.0
    return settings.learning_rate * warmup * decay


def fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    settings: LoopSettings,
    state_file: Path,
    publish: Callable[[Curve], None],
    *,
    title: str,
) -> Curve:
    """Minimise `loss_at(step)` over the parameters of `network`; returns the loss curve.

    `loss_at` must draw its batch and noise from the step alone: then N + M steps equal N, a kill, and M more. All state
    is in `state_file`, written every `checkpoint_every_s`. `publish(curve)` is called with the averaged weights in
    `network`, every `publish_every_s` and at the end. A state of other settings raises InputError (`steps`, the time
    limits and the decay may change).

    Losses and gradient norms stay on the device until they are recorded, so that a GPU is never waited for. One that is
    not finite raises FloatingPointError then: before anything of its steps is saved or published.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    update_average = _averaging(average, network)
    curve: Curve = []
    if state_file.exists():
        curve = _load_state(state_file, network, average, optimizer, settings)
    done = curve[-1].step if curve else 0
    seconds_before = curve[-1].seconds if curve else 0.0
    started = checkpointed = published = time.monotonic()
    recent: list[Tensor] = []  # [2] each: loss and gradient norm
    console = Console()
    with progress_bar(TimeElapsedColumn(), TextColumn("{task.fields[loss]}"), console=console) as progress:
        bar = progress.add_task(title, total=settings.steps, completed=done, loss="")
        for step in range(done, settings.steps):
            network.train()
            loss = loss_at(step)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.param_groups[0]["lr"] = rate = learning_rate_at(step, settings)
            optimizer.step()
            update_average(min(settings.ema_decay, (step + 1) / (step + 10)))
            recent.append(torch.stack([loss.detach(), grad_norm.detach()]).float())
            progress.advance(bar)
            if (step + 1) % settings.record_every_steps and step + 1 < settings.steps:
                continue
            losses, norms = _means(recent, step, title)
            recent.clear()
            now = time.monotonic()
            curve.append(Record(step + 1, losses, norms, rate, round(seconds_before + now - started, 1)))
            progress.update(bar, loss=f"loss {losses:.4f}")
            last = step + 1 == settings.steps
            if last or now - checkpointed >= settings.checkpoint_every_s:
                _save_state(state_file, network, average, optimizer, settings, curve)
                checkpointed = time.monotonic()
                if not console.is_terminal:
                    eta_min = (now - started) / (step + 1 - done) * (settings.steps - step - 1) / 60
                    at = f"step {step + 1}/{settings.steps}, loss {losses:.4f}"
                    console.print(f"{title}: {at}, {eta_min:.1f} min left")
            if not last and now - published >= settings.publish_every_s:
                _with_weights(network, average, lambda: publish(curve))
                published = time.monotonic()
    _with_weights(network, average, lambda: publish(curve))
    return curve


def _means(recent: list[Tensor], last_step: int, title: str) -> tuple[float, float]:
    """Mean loss and gradient norm of the latest steps; FloatingPointError names the first that is not finite."""
    rows: list[list[float]] = torch.stack(recent).tolist()
    for step, (loss, norm) in enumerate(rows, start=last_step + 1 - len(rows)):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(f"{title}: loss {loss}, gradient norm {norm} at step {step}")
    losses, norms = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return losses, norms


def _averaging(average: dict[str, Tensor], network: nn.Module) -> Callable[[float], None]:
    """What moves `average` towards the weights: average <- decay·average + (1 − decay)·weights; buffers are copied."""
    weights = network.state_dict()  # views of the weights: they follow them
    trained = {name for name, _ in network.named_parameters()}
    averages = [average[name] for name in weights if name in trained]
    values = [value.detach() for name, value in weights.items() if name in trained]
    buffers = [(average[name], value) for name, value in weights.items() if name not in trained]

    def update(decay: float) -> None:
        torch._foreach_lerp_(averages, values, 1 - decay)
        for kept, value in buffers:
            kept.copy_(value)

    return update


def _with_weights(network: nn.Module, weights: dict[str, Tensor], act: Callable[[], None]) -> None:
    """Call `act` while `network`, in eval mode, holds `weights`."""
    own = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    network.eval()
    try:
        act()
    finally:
        network.load_state_dict(own)


_MAY_CHANGE = {"steps", "decay_share", "checkpoint_every_s", "publish_every_s"}


def _save_state(
    file: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    curve: Curve,
) -> None:
    """All that a resumed run needs, in one safetensors file, replaced whole: a kill leaves the old or the new."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    about = {"settings": settings.model_dump_json(), "curve": json.dumps([asdict(record) for record in curve])}
    with atomic_path(file) as fresh:
        save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, fresh, metadata=about)


def _load_state(
    file: Path,
    network: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
) -> Curve:
    """Put a saved state back in place and return its curve."""
    with safe_open(file, framework="pt") as saved:
        about = saved.metadata()
    tensors = load_file(file)
    before, now = json.loads(about["settings"]), json.loads(settings.model_dump_json())
    changed = sorted(name for name in now if name not in _MAY_CHANGE and before.get(name) != now[name])
    if changed:
        what = f"holds a run with other settings ({', '.join(changed)})"
        raise InputError(what, file=file, fix="Delete it to start anew")
    network.load_state_dict(_under("network.", tensors))
    for name, value in _under("average.", tensors).items():
        average[name].copy_(value)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, entry = name.split(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return [Record(**record) for record in json.loads(about["curve"])]


def averaged_weights(file: Path) -> dict[str, Tensor]:
    """The averaged weights of a run, from its state file: what `publish` sees."""
    return _under("average.", load_file(file))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_curve(curve: Curve, folder: Path, *, title: str) -> None:
    """`loss_curve.csv` and `loss_curve.png` in `folder`."""
    with (folder / "loss_curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "grad_norm", "learning_rate", "seconds"])
        writer.writeheader()
        writer.writerows(asdict(record) for record in curve)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([record.step for record in curve], [record.loss for record in curve])
    axes.set(xlabel="step", ylabel="training loss", title=title, yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(folder / "loss_curve.png", dpi=90)
