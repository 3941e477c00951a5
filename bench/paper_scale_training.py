"""How fast an adapter trains beside a base, in every form that the settings offer: the training part of paper_scale.py.

What is timed is `Trainer.train_step` itself. A case says how many pairs go through the network at once, whether the
reference errors are known, what share of the blocks is checkpointed, and whether blocks are compiled. Further cases try
what training does not do: a CUDA graph of the whole micro-batch, another kernel of attention, depthwise convolutions as
sums that the compiler can fuse. The plain way is the public Diffusion-DPO script's (`plain_way`).
"""

import dataclasses
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
import yaml
from diffusers.models.attention_processor import AttnProcessor2_0
from paper_scale_networks import CAPTIONS, Base, pixels, random_cascade, random_choices
from plain_way import plain_step
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from where_a_step_goes import where_it_goes

from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.model.repeated_blocks import release_blocks
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.settings import FinetuneSettings

PAPER = Path(__file__).parents[1] / "params.paper.yaml"
PLAIN, FIRST, KNOWN = "plain", "ours, first run", "ours, reference errors known"
WARM_STEPS = 2


@dataclass(frozen=True)
class Case:
    """One form of training: `pairs` in one micro-batch, which is a step."""

    pairs: int
    known: bool = True
    checkpointing: float = 0.0
    compile: bool = True
    trial: str = ""
    """Something that training does not do: "cuda graph", "cudnn attention" or "depthwise as sums"."""

    @property
    def way(self) -> str:
        return (KNOWN if self.known else FIRST) + (f", {self.trial}" if self.trial else "")


CASES = (
    Case(16),
    Case(16, known=False),
    Case(8),
    Case(8, known=False),
    Case(8, checkpointing=0.0625),
    Case(1, checkpointing=1.0, compile=False),
    Case(16, checkpointing=0.5),
    Case(16, checkpointing=1.0),
    Case(8, checkpointing=0.125),
    Case(1, compile=False),
    Case(1, compile=False, trial="cuda graph"),
    Case(8, compile=False),
    Case(32, checkpointing=0.5),
    Case(32, checkpointing=1.0),
    Case(16, trial="cudnn attention"),
    Case(16, trial="depthwise as sums"),
    Case(4, compile=False, trial="cuda graph"),
    Case(4, compile=False),
    Case(4),
    Case(2),
    Case(1),
    Case(16, compile=False),
)
"""Most important first: what the time does not suffice for is left out at the end. The first one is profiled."""
PLAIN_CASES = ((8, False), (16, True), (16, False))
"""(pairs, checkpointing) of the plain way."""


def measure_training(base: Base, device: torch.device, steps: int, cases: tuple[Case, ...]) -> Iterator[dict[str, Any]]:
    """A row for each case, in order; one with `error` in place of numbers where it failed or did not fit."""
    backbone, data = base.make(device), random_choices(base)
    known = {"base": base.name, "parameters": sum(weight.numel() for weight in backbone.network.parameters())}
    known["floor_tflop_each"] = 2 * floor_flops(backbone, data) / 1e12
    for case in cases:
        row = known | asdict(case) | {"way": case.way, "unit": "pairs", "n": case.pairs}
        try:
            yield row | measured_case(backbone, data, case, steps, device, profiled=case == cases[0])
        except Exception as error:  # noqa: BLE001 - the next case may work, and this one's failure is a result
            yield row | {"error": in_short(error)}
        finally:
            reset(backbone, device)


def measured_case(
    backbone: Backbone, data: TrainingData, case: Case, steps: int, device: torch.device, *, profiled: bool
) -> dict[str, Any]:
    """Seconds a step, peak memory, and how often a step waited for the device."""
    with trying(case.trial, backbone):
        began = time.perf_counter()
        trainer = trainer_of(backbone, data, case, steps)
        try:
            step = graphed(trainer) if case.trial == "cuda graph" else trainer.train_step
            for _ in range(WARM_STEPS):
                step()
            ready = time.perf_counter() - began
            found = timed(step, steps, device) | {"seconds_until_warm": ready, "compiled": trainer.compiled}
            if profiled:
                found["where"] = where_it_goes(step, device)
            if device.type == "cuda":
                found["waits_a_step"] = waits(step)
            return found
        finally:
            trainer.adapter.detach()


def trainer_of(backbone: Backbone, data: TrainingData, case: Case, steps: int) -> Trainer:
    """Our trainer in the form of a case; where errors are known, an earlier run has left those of all steps."""
    trainer = Trainer(backbone, data, settings_of(case), "ppd")
    if case.known:
        for step in range(2 * WARM_STEPS + 2 * steps + 8):
            trainer.reference.put(step, slice(None), torch.ones(case.pairs, 2))
        trainer.reference.collect()
    return trainer


def settings_of(case: Case) -> FinetuneSettings:
    """The paper's settings, in the form of a case. Read by a YAML parser that any machine with transformers has."""
    finetune = yaml.safe_load(PAPER.read_text())["finetune"]
    form = {"pairs_per_step": case.pairs, "micro_batch_pairs": case.pairs, "compile": case.compile}
    return FinetuneSettings.model_validate(finetune | form | {"gradient_checkpointing": case.checkpointing or False})


def measure_plain(device: torch.device, size: str, steps: int, px: int) -> Iterator[dict[str, Any]]:
    """The plain way's rows; the second network, the text encoder and the image encoder stay on the device."""
    backbone = random_cascade(size, device)
    base_shape = (16, px // 32, px // 32)
    data = random_choices(Base("", lambda _: backbone, base_shape, lambda n, g: backbone.encode_captions(CAPTIONS)))
    images = pixels(len(data.latents), px, device)
    known = {"parameters": sum(weight.numel() for weight in backbone.network.parameters())}
    known["floor_tflop_each"] = 2 * floor_flops(backbone, data) / 1e12
    for pairs, checkpointing in PLAIN_CASES:
        row = known | {"way": PLAIN, "unit": "pairs", "n": pairs, "pairs": pairs, "checkpointing": float(checkpointing)}
        if checkpointing:
            backbone.enable_gradient_checkpointing()
        try:
            act = plain_step(backbone, data, images, CAPTIONS, settings_of(Case(pairs)), whole_network=False)
            with FlopCounterMode(display=False) as counter:
                act(0)
            step = count(1)
            found = timed(partial(_next, act, step), steps, device)
            yield row | found | {"flops_each": counter.get_total_flops() / pairs}
        except Exception as error:  # noqa: BLE001 - as above
            yield row | {"error": in_short(error)}
        finally:
            act = None
            for block in backbone.attention_blocks().values():
                block.set_processor(AttnProcessor2_0())
            reset(backbone, device)


def _next(act: Callable[[int], None], step: Iterator[int]) -> None:
    act(next(step))


def in_short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def floor_flops(backbone: Backbone, data: TrainingData) -> int:
    """FLOPs of a forward and a backward through activations of one image: twice the forward."""
    x_t, t = data.latents[:1].float().to(backbone.device), torch.ones(1, device=backbone.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone.predict(x_t, t, data.text[:1].to(backbone.device))
    return 2 * counter.get_total_flops()


def timed(act: Callable[[], object], times: int, device: torch.device) -> dict[str, Any]:
    """Seconds of wall time each of `times` calls took, waited for, and the peak memory meanwhile in bytes."""
    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    each, began = [], time.perf_counter()
    for _ in range(times):
        start = time.perf_counter()
        act()
        each.append(time.perf_counter() - start)
    wait()
    seconds = (time.perf_counter() - began) / times
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "fastest": min(each), "slowest": max(each), "peak_bytes": peak, "times": times}


def waits(act: Callable[[], object]) -> int:
    """How often a call waited for the GPU, by PyTorch's own count of synchronising operations."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            act()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def reset(backbone: Backbone, device: torch.device) -> None:
    """Undo what a case has done to the backbone, and give its memory back."""
    release_blocks(backbone.repeated_blocks())
    for module in backbone.network.modules():
        if hasattr(module, "disable_gradient_checkpointing"):
            module.disable_gradient_checkpointing()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# What training does not do, tried.


@contextmanager
def trying(trial: str, backbone: Backbone) -> Iterator[None]:
    """Inside, attention or convolutions are computed another way, and what was compiled before is not used."""
    if trial not in ("cudnn attention", "depthwise as sums"):
        yield
        return
    torch.compiler.reset()
    try:
        if trial == "cudnn attention":
            backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
            with sdpa_kernel([*backends, SDPBackend.MATH], set_priority=True):
                yield
        else:
            with depthwise_as_sums(backbone):
                yield
    finally:
        torch.compiler.reset()


@contextmanager
def depthwise_as_sums(backbone: Backbone) -> Iterator[None]:
    """Depthwise convolutions written as sums of shifted images: the compiler fuses them with the norm that follows."""
    convolutions = [m for m in backbone.network.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]

    def forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
        (high, wide), (h, w) = conv.kernel_size, x.shape[-2:]
        padded = nn.functional.pad(x, (wide // 2, wide // 2, high // 2, high // 2))
        taps = conv.weight[:, 0, :, :, None, None]
        total = conv.bias[:, None, None]
        for i in range(high):
            for j in range(wide):
                total = total + padded[:, :, i : i + h, j : j + w] * taps[:, i, j]
        return total

    for conv in convolutions:
        conv.forward = forward.__get__(conv)
    try:
        yield
    finally:
        for conv in convolutions:
            del conv.forward


def graphed(trainer: Trainer) -> Callable[[], object]:
    """A training step whose forward and backward are one CUDA graph: inputs are copied in, and it is replayed."""
    if trainer.backbone.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a CUDA GPU")

    def inputs() -> tuple[Any, Tensor]:
        batch, reference = trainer.inputs(trainer._draw(), slice(0, trainer.micro_batch_pairs))
        assert reference is not None
        return batch, reference

    batch, reference = inputs()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            trainer.optimizer.zero_grad()
            trainer.backward(batch, reference, 1.0)
    torch.cuda.current_stream().wait_stream(aside)
    trainer.optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        measured = trainer.backward(batch, reference, 1.0)

    def step() -> None:
        fresh, errors = inputs()
        reference.copy_(errors)
        for field in dataclasses.fields(batch):
            _copy(getattr(batch, field.name), getattr(fresh, field.name))
        graph.replay()
        norm = trainer.accelerator.clip_grad_norm_(trainer.adapter.parameters(), trainer.settings.max_grad_norm)
        torch.stack([measured["loss"], norm]).tolist()
        trainer.optimizer.step()
        trainer.step += 1

    return step


def _copy(to: Any, of: Any) -> None:
    if isinstance(to, Tensor):
        to.copy_(of)
    else:  # the text
        for part, other in zip(to.tensors().values(), of.tensors().values(), strict=True):
            part.copy_(other)
