"""Fine-tuning the adapter on people's choices: one loop for every method, exact to resume.

What one step costs, in forwards of the base: two (forward, and backward through activations only: no weight of the base
takes a gradient), and a third for the reference the first time that a draw is used. Images and captions were encoded
beforehand; there is no second copy of the model.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ppd.device import accelerator_of, sent
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.training.curve import Curve
from ppd.diffusion.training.dataset import Draw, TrainingData, draw_batch
from ppd.diffusion.training.evidence import NonFiniteError, batch_tensors, suspects
from ppd.diffusion.training.fit import compile_if_possible, pairs_that_fit
from ppd.diffusion.training.loss import dispersion_loss
from ppd.diffusion.training.objective import (
    Measured,
    NoisyPairs,
    Stats,
    base_errors,
    noisy_pairs,
    preference_objective,
    sft_objective,
)
from ppd.diffusion.training.reference import ReferenceErrors
from ppd.diffusion.training.start import fresh_adapter, learning_rate
from ppd.diffusion.training.validation import HeldOutEvaluation
from ppd.errors import InputError
from ppd.files import atomic_path
from ppd.settings import FinetuneSettings, Method
from ppd.stored_tensors import load_with_metadata, save_tensors

CHECKPOINT = "checkpoint.safetensors"
REPORTING = {"evaluate_every_steps", "checkpoint_every_steps", "evaluation_pairs"}
MOVING = {"micro_batch_pairs", "gradient_checkpointing", "compile"}
"""Settings that say when to report, and where and in what pieces the same sums are made. Like the number of
processes they are no part of a run: its checkpoint is taken up with others. With the same ones it goes on bit for bit;
with others sums are rounded in another order, so weights differ from an undisturbed run's in their last digits."""


class Denoiser(nn.Module):
    """The backbone's forward as a module that owns only the trained weights, so that a wrapper can synchronise them."""

    def __init__(self, backbone: Backbone, adapter: UserAttention) -> None:
        super().__init__()
        self.adapter = adapter
        self._predict = backbone.predict

    def forward(self, x_t: Tensor, t: Tensor, text: Text) -> Tensor:
        return self._predict(x_t, t, text)


class Trainer:
    """One run of one method: set up, `train_step`, `train`, `state_dict`. The base stays as it is.

    `adapter`, attached to `backbone`, holds the trained weights; `final_weights` is what the run leaves.
    reference_folder: where the base's errors are kept for other runs with the same draws.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: TrainingData,
        settings: FinetuneSettings,
        method: Method,
        *,
        accelerator: Accelerator | None = None,
        reference_folder: Path | None = None,
    ) -> None:
        self.backbone, self.data, self.settings, self.method = backbone, data, settings, method
        self.accelerator = accelerator or accelerator_of(backbone.device)
        self.n_processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        share, rest = divmod(settings.pairs_per_step, self.n_processes)
        at_once = 1 if settings.micro_batch_pairs == "auto" else min(settings.micro_batch_pairs, share)
        if rest or share % at_once:
            raise InputError(
                f"pairs_per_step ({settings.pairs_per_step}) is not a multiple of micro_batch_pairs "
                f"({settings.micro_batch_pairs}) x processes ({self.n_processes})",
                fix="Change one of them; the number of processes is launch.training",
            )
        self.adapter = fresh_adapter(backbone, data, settings, method)
        self.adapter.attach(backbone)
        if settings.gradient_checkpointing:
            backbone.enable_gradient_checkpointing(float(settings.gradient_checkpointing))
        optimizer = torch.optim.AdamW(
            self.adapter.parameters(),
            betas=settings.adam_betas,
            weight_decay=settings.weight_decay,
            fused=backbone.device.type == "cuda",
        )
        self.denoiser, self.optimizer = self.accelerator.prepare(Denoiser(backbone, self.adapter), optimizer)
        self.average = {name: weight.detach().clone() for name, weight in self.adapter.named_parameters()}
        self.reference = ReferenceErrors(backbone, data, settings, reference_folder, self.rank)
        self.step = 0
        self._drawn: tuple[int, Draw] | None = None
        self.micro_batch_pairs = at_once
        if settings.micro_batch_pairs == "auto":
            # Before compiling, which would compile for each size, and saves memory.
            self.micro_batch_pairs = pairs_that_fit(share, self.attempt, self.accelerator)
        self.compiled = "no"
        if settings.compile:
            self.compiled = compile_if_possible(backbone, lambda: self.attempt(self.micro_batch_pairs))
        self.evaluations = {
            name: HeldOutEvaluation(backbone, self.adapter, data, pairs, settings, self.micro_batch_pairs)
            for name, pairs in {"seen": data.seen, "held_out": data.held_out}.items()
        }

    def train_step(self) -> Stats:
        """One optimizer step on `pairs_per_step` pairs. Raises NonFiniteError before any weight would change."""
        lr = learning_rate(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        measured = self._accumulate_gradients()
        norm = self.accelerator.clip_grad_norm_(self.adapter.parameters(), self.settings.max_grad_norm)
        self._draw_of(self.step + 1)  # while the device computes
        stats = self._fetch(measured, norm)
        self.reference.collect()
        if not (math.isfinite(stats["loss"]) and math.isfinite(stats["grad_norm"])):
            found = f"step {self.step}: loss {stats['loss']}, gradient norm {stats['grad_norm']}; nothing was updated"
            raise NonFiniteError(f"{found}. {suspects(self.data, self._draw())}")
        self.optimizer.step()
        with torch.no_grad():
            weights: list[Tensor] = [weight for _, weight in self.adapter.named_parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.settings.ema_decay)
        self.step += 1
        return stats | {"learning_rate": lr}

    def train(self, work: Path) -> Iterator[Stats]:
        """Train to the end, one row of the curve at a time; continues exactly where `work` left off, even after a kill.

        work: a folder of this run's own; `curve.csv` grows there. The caller shows the progress.
        """
        self.resume(work)
        curve = Curve(work / "curve.csv", keep_rows=self.step) if self.accelerator.is_main_process else None
        while self.step < self.settings.steps:
            row: Stats = {"step": self.step}
            if self.step % self.settings.evaluate_every_steps == 0:
                row |= self.evaluate()
            try:
                row |= self.train_step()
            except NonFiniteError as error:
                self.save_evidence(evidence := work / f"non-finite-{self.step}.safetensors")
                raise NonFiniteError(f"{error}. What reproduces it is in {evidence}") from error
            last = self.step == self.settings.steps
            if last:
                row |= self.evaluate()
            if curve is not None:
                curve.append(row)
            if last or self.step % self.settings.checkpoint_every_steps == 0:
                self.save_state(work / CHECKPOINT)
            yield row

    def resume(self, work: Path) -> None:
        """Take up what a killed run left in `work`, if it left anything; makes the folder."""
        work.mkdir(parents=True, exist_ok=True)
        if (work / CHECKPOINT).exists():
            self.load_state(work / CHECKPOINT)

    def evaluate(self) -> Stats:
        """Implicit accuracy of seen and of held-out people (`HeldOutEvaluation.metrics`), with the averaged weights."""
        with self.averaged_weights():
            return {
                f"{name}_{key}": value
                for name, evaluation in self.evaluations.items()
                for key, value in evaluation.metrics().items()
            }

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the adapter holds the moving average of its weights (the last weights if `ema_decay` is 0)."""
        trained = {name: weight.detach().clone() for name, weight in self.adapter.named_parameters()}
        _copy_into(self.adapter, self.average)
        try:
            yield
        finally:
            _copy_into(self.adapter, trained)

    def final_weights(self) -> dict[str, Tensor]:
        """The state dict to save (`ppd.diffusion.adapter.checkpoint.save_adapter`): the averaged weights."""
        return {**self.adapter.state_dict(), **self.average}

    def end(self) -> None:
        """Leave the other processes. Nothing can be trained after it.

        The denoiser goes first: where it is the last to own the process group, torch waits for the group's thread
        with the GIL in hand, which that thread may be waiting for, and the process never ends (pytorch/pytorch#56297).
        """
        self.release()
        self.accelerator.end_training()

    def release(self) -> None:
        """Forget what only training needs, so that another trainer may follow in the same processes."""
        del self.denoiser, self.optimizer
        self.accelerator.free_memory()

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes from step to step. Random numbers are functions of (seed, step): they have no state."""
        state: dict[str, Tensor] = {}
        for name, weight in self.adapter.named_parameters():
            state |= {f"adapter.{name}": weight, f"average.{name}": self.average[name]}
            state |= {f"adam.{name}.{key}": value for key, value in self.optimizer.state[weight].items()}
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def save_state(self, path: Path) -> None:
        """Checkpoint and reference errors. Every process calls it."""
        self.reference.save()
        if self.accelerator.is_main_process:
            with atomic_path(path) as fresh:
                save_tensors(self.state_dict(), fresh, {"step": str(self.step), "run": self.run_id()})
        self.accelerator.wait_for_everyone()

    def save_evidence(self, path: Path) -> None:
        """What the step to come computes with: a checkpoint that `load_state` takes, and the batch beside it."""
        batch = {f"batch.{name}": tensor for name, tensor in batch_tensors(self.data, self._draw()).items()}
        if self.accelerator.is_main_process:
            with atomic_path(path) as fresh:
                save_tensors(self.state_dict() | batch, fresh, {"step": str(self.step), "run": self.run_id()})
        self.accelerator.wait_for_everyone()

    def load_state(self, path: Path) -> None:
        """Continue from a checkpoint. Raises InputError if it belongs to a run with other settings, data or base."""
        state, metadata = load_with_metadata(path)
        if metadata.get("run") != self.run_id():
            raise InputError(
                f"the checkpoint of another run\n  there: {metadata.get('run')}\n  here:  {self.run_id()}",
                file=path,
                fix="Delete it to start over, or restore the settings to continue",
            )
        self.step = int(metadata["step"])
        _copy_into(self.adapter, _below("adapter.", state))
        for name, weight in self.adapter.named_parameters():
            self.average[name].copy_(state[f"average.{name}"])
            adam = _below(f"adam.{name}.", state)
            self.optimizer.state[weight] = {k: v if k == "step" else v.to(weight.device) for k, v in adam.items()}

    @property
    def key(self) -> str:
        """Names the run: another base, other data or settings that matter give another key."""
        return hashlib.sha256(self.run_id().encode()).hexdigest()[:16]

    def attempt(self, n_pairs: int) -> None:
        """Take `n_pairs` of the step to come forwards and backwards, and wait until that is done; trains nothing."""
        draw, rows = self._draw(), slice(self.rank * n_pairs, (self.rank + 1) * n_pairs)
        with self.accelerator.no_sync(self.denoiser):
            self._micro_batch(draw, rows, 1.0)["loss"].item()
        self.reference.forget()  # other sizes round otherwise, and so does what is not compiled yet

    def _accumulate_gradients(self) -> list[Measured]:
        """Gradients of this process' share of a step, micro-batch by micro-batch; returns the means over each."""
        size, share = self.micro_batch_pairs, self.settings.pairs_per_step // self.n_processes
        draw = self._draw()
        parts = []
        for start in range(self.rank * share, (self.rank + 1) * share, size):
            is_last = start + size == (self.rank + 1) * share
            with nullcontext() if is_last else self.accelerator.no_sync(self.denoiser):
                parts.append(self._micro_batch(draw, slice(start, start + size), size / share))
        return parts

    def _fetch(self, measured: list[Measured], norm: Tensor) -> Stats:
        """Means over the micro-batches of all processes, and the gradient's norm: a step's one wait for the device.

        After it the device knows nothing to do until the optimizer's update, which must wait for the check of these
        numbers; everything before it is queued ahead.
        """
        names = list(measured[0])
        rows = torch.stack([torch.stack([part[name] for name in names]) for part in measured])
        if self.n_processes > 1:
            rows = self.accelerator.gather(rows)
        *numbers, grad_norm = torch.cat([rows.flatten(), norm.reshape(1)]).tolist()
        means = {name: fmean(numbers[column :: len(names)]) for column, name in enumerate(names)}
        return means | {"grad_norm": grad_norm}

    def _micro_batch(self, draw: Draw, rows: slice, share: float) -> Measured:
        """Forward and backward of some pairs of a draw; their gradient counts as `share` of the process' step."""
        return self.backward(*self.inputs(draw, rows), share)

    def inputs(self, draw: Draw, rows: slice) -> tuple[NoisyPairs, Tensor | None]:
        """Some pairs of a draw on the device, and the base's errors on them (none for SFT)."""
        preference = self.method != "sft"
        pairs = self.data.train[draw.pairs[rows]]
        batch = noisy_pairs(self.backbone, self.data, pairs, draw[rows], losers=preference)
        return batch, self._reference(rows, batch) if preference else None

    def backward(self, batch: NoisyPairs, reference: Tensor | None, share: float) -> Measured:
        """The gradient of the loss, times `share`, is added to the weights'; reads nothing but the device's memory."""
        loss_settings = self.settings.loss
        with self.adapter.users(batch.users):
            residual = self.denoiser(batch.x_t, batch.t, batch.text) - batch.target
            if reference is not None:
                loss, stats = preference_objective(residual, reference, batch, loss_settings)
            else:
                loss, stats = sft_objective(residual, batch)
            if loss_settings.dispersion and self.method == "ppd":
                user_tokens = self.adapter.user_tokens(batch.users[: len(batch.user)])
                apart = dispersion_loss(user_tokens, batch.user, loss_settings.dispersion_temperature)
                loss = loss + loss_settings.dispersion * apart
            self.accelerator.backward(loss * share)
        return {"loss": loss.detach()} | stats

    def _draw(self) -> Draw:
        return self._draw_of(self.step)

    def _draw_of(self, step: int) -> Draw:
        """A step's draw; the last one is kept."""
        if self._drawn is None or self._drawn[0] != step:
            shape = tuple(self.data.latents.shape[1:])
            self._drawn = step, draw_batch(step, len(self.data.train), shape, self.settings)
        return self._drawn[1]

    def _reference(self, rows: slice, batch: NoisyPairs) -> Tensor:
        """The base's errors [2B] on some rows of this step, computed only the first time that they are asked for."""
        errors = self.reference.get(self.step, rows)
        if errors is None:
            errors = torch.stack(base_errors(self.backbone, self.adapter, batch).chunk(2), dim=1)
            self.reference.put(self.step, rows, errors)
        return sent(errors.T.reshape(-1), self.backbone.device)

    def run_id(self) -> str:
        """What a checkpoint must agree on: everything that decides the weights of a step, but for their last digits."""
        return json.dumps(
            {
                "method": self.method,
                "base": self.backbone.fingerprint,
                "data": self.data.content_hash,
                **self.settings.model_dump(mode="json", exclude=REPORTING | MOVING),
            }
        )


def _copy_into(adapter: UserAttention, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            weight.copy_(weights[name])


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
