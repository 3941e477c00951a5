"""How a base makes noise of an image, what its network says of a noisy one, and the way back.

A process is a base's own: its noise levels, the target that its network was trained for, and the steps of its sampler.
Training compares the network's output with `target` and nothing else, so no weight that depends on t can hide in the
margin of a preference loss: read as the noise, the error of a flow would be (1−σ)² times that of its velocity, and β
would change with the noise level.

t in (0, 1] is the noise level, fp32, one a row. Legend: B rows; C, h, w latent; ᾱ the signal share.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ppd.errors import InputError
from ppd.settings import SamplingSettings

Prediction = Literal["epsilon", "v_prediction"]
HIGH_NOISE = 0.8
"""Noise level down to which the stochastic sampler takes steps of second order, which made details worse below, and
from which on it draws all noise anew, which above lost saturation (docs/lab-log.md)."""
Predict = Callable[[Tensor, Tensor], Tensor]
"""x [B, C, h, w] and one noise level (a scalar) -> the network's (guided) output, of x's shape."""


class Process(Protocol):
    """A forward process, the target of training, and the sampler's steps."""

    @property
    def name(self) -> str:
        """What it is, with all that decides its numbers; part of what names cached errors."""
        ...

    @property
    def samplers(self) -> tuple[str, ...]:
        """The values of `sampling.sampler` that `denoise` knows."""
        ...

    @property
    def free_spacing(self) -> bool:
        """Whether the steps are spaced as `sampling.spacing` says, and not by a scheduler."""
        ...

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of x_0 and ε [B, C, h, w] at t [B], in fp32."""
        ...

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network was trained to answer at x_t: ε, v, or the flow's velocity."""
        ...

    def denoise(self, predict: Predict, x: Tensor, settings: SamplingSettings, fresh: Callable[[], Tensor]) -> Tensor:
        """From noise x [B, C, h, w] to latents. fresh: standard normal noise of x's shape, for samplers that add some.

        Raises InputError for a sampler that is not one of `samplers`, or a spacing of steps that it cannot have.
        """
        ...


def check_sampler(process: Process, settings: SamplingSettings) -> None:
    """Raises InputError where the process has no such sampler, or cannot space its steps as is asked."""
    if settings.sampler not in process.samplers:
        raise InputError(
            f"sampling.sampler is {settings.sampler}, which this base does not know",
            fix=f"Use {' or '.join(process.samplers)}",
        )
    if settings.spacing != 1 and not process.free_spacing:
        raise InputError(
            f"sampling.spacing is {settings.spacing:g}, and this base's scheduler spaces its steps itself", fix="Use 1"
        )


def step_times(n_steps: int, spacing: float) -> Tensor:
    """t from 1 to 0, [n_steps + 1]: 1 − r^spacing for even r, so that above 1 more steps are at high noise."""
    if spacing == 1:
        return torch.linspace(1, 0, n_steps + 1)
    return 1 - torch.linspace(0, 1, n_steps + 1) ** spacing


class VariancePreserving(ABC):
    """x_t = √ᾱ(t)·x_0 + √(1−ᾱ(t))·ε, with a network that predicts ε or v = √ᾱ·ε − √(1−ᾱ)·x_0.

    The two targets are those of DDPM (arXiv 2006.11239) and of Salimans & Ho (arXiv 2202.00512); at one x_t the squared
    error of v is that of ε over ᾱ(t).
    """

    prediction: Prediction

    @abstractmethod
    def alpha_bar(self, t: Tensor) -> Tensor:
        """Signal share ᾱ(t): [B] -> [B], fp32."""

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha_bar = self.alpha_bar(t)[:, None, None, None]
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        alpha_bar = self.alpha_bar(t)[:, None, None, None]
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0

    def noise_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂ of the network's output at x_t; of v it is √(1−ᾱ)·x_t + √ᾱ·v."""
        if self.prediction == "epsilon":
            return output
        alpha_bar = self.alpha_bar(t)[:, None, None, None]
        return (1 - alpha_bar).sqrt() * x_t + alpha_bar.sqrt() * output


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """Stable Cascade's: continuous t, ᾱ a squared cosine (diffusers' DDPMWuerstchenScheduler with scaler 1)."""

    prediction: Prediction
    offset: float = 0.008
    samplers = ("ddim", "ddpm", "stochastic")
    free_spacing = True

    @property
    def name(self) -> str:
        return f"cosine {self.offset}, {self.prediction}"

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ(t) = cos²(((s+t)/(1+s))·π/2) / cos²((s/(1+s))·π/2), clamped to [1e-4, .9999]: [B] -> [B]."""
        s = torch.full((1,), self.offset, device=t.device)  # made there: a copy would wait for the device
        at_zero = torch.cos(s / (1 + s) * torch.pi * 0.5) ** 2
        return (torch.cos((t + s) / (1 + s) * torch.pi * 0.5) ** 2 / at_zero).clamp(1e-4, 0.9999)

    def denoise(self, predict: Predict, x: Tensor, settings: SamplingSettings, fresh: Callable[[], Tensor]) -> Tensor:
        """ddpm: the scheduler's own steps; ddim: η = 0; stochastic: `_stochastic`.

        Evenly spaced t are those of Stable Cascade's pipeline.
        """
        check_sampler(self, settings)
        times = step_times(settings.steps, settings.spacing).to(x.device)
        if settings.sampler == "stochastic":
            return self._stochastic(predict, x, times, fresh)
        for t, t_next in pairwise(times):
            noise = self.noise_of(predict(x, t), x, t[None])
            signal, signal_next = self.alpha_bar(t[None]), self.alpha_bar(t_next[None])
            if settings.sampler == "ddim":
                x = ddim_step(x, noise, signal, signal_next)
            else:
                x = ddpm_step(x, noise, signal, signal_next, fresh() * (t_next != 0))
        return x

    def _stochastic(self, predict: Predict, x: Tensor, times: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Few steps that keep the colours: ddpm's of second order at high noise, and all noise anew at low noise.

        The second order keeps what one answer a step loses (`extrapolated`). At low noise a step is that of multistep
        consistency sampling (arXiv 2303.01469, algorithm 1): no error is taken along in the noise, and what is decided
        there, the details, comes out narrower than the base has it, nearer to what is usual.
        """

        def answer(x: Tensor, t: Tensor) -> Answer:
            signal = self.alpha_bar(t[None])
            return Answer(image_of(x, self.noise_of(predict(x, t), x, t[None]), signal), signal)

        before: Answer | None = None
        for t, t_next in pairwise(times[:-1]):
            now, signal_next = answer(x, t), self.alpha_bar(t_next[None])
            if t > HIGH_NOISE:
                image = now.image if before is None else extrapolated(before, now, signal_next)
                x = ddpm_step(x, noise_at(x, image, now.signal), now.signal, signal_next, fresh())
            else:
                x = signal_next.sqrt() * now.image + (1 - signal_next).sqrt() * fresh()
            before = now
        return answer(x, times[-2]).image


class Discrete(VariancePreserving):
    """A table of ᾱ over n training steps, as Stable Diffusion's schedulers describe it: t is step ⌊t·n⌋.

    config: of any of them; sampling is by diffusers' own DDIMScheduler, η = 0, with this config's spacing of steps.
    """

    samplers = ("ddim",)
    free_spacing = False

    def __init__(self, config: Mapping[str, Any]) -> None:
        if (prediction := config.get("prediction_type", "epsilon")) not in get_args(Prediction):
            raise InputError(f"prediction_type is {prediction!r}; expected {' or '.join(get_args(Prediction))}")
        self.prediction = prediction
        # Latents are not bounded: with the class' default, to clip x̂_0 at 1, a config that is silent would lose colour.
        self._make = partial(DDIMScheduler.from_config, config, clip_sample=False, thresholding=False)
        self._table: Tensor = self._make().alphas_cumprod

    @property
    def n_steps(self) -> int:
        return len(self._table)

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self._table.numpy().tobytes()).hexdigest()[:8]
        return f"{self.n_steps} steps {digest}, {self.prediction}"

    def step_of(self, t: Tensor) -> Tensor:
        """The training step of each t in (0, 1], as the network takes it: int64, 0 is the least noise."""
        return (t * self.n_steps).long().clamp(max=self.n_steps - 1)

    def alpha_bar(self, t: Tensor) -> Tensor:
        if self._table.device != t.device:
            self._table = self._table.to(t.device)
        return self._table[self.step_of(t)]

    def denoise(self, predict: Predict, x: Tensor, settings: SamplingSettings, fresh: Callable[[], Tensor]) -> Tensor:
        check_sampler(self, settings)
        scheduler = self._make()
        scheduler.set_timesteps(settings.steps)
        for step in scheduler.timesteps:
            middle = ((step + 0.5) / self.n_steps).to(x.device)
            x = scheduler.step(predict(x, middle), step, x).prev_sample
        return x


class RectifiedFlow:
    """x_σ = (1−σ)·x_0 + σ·ε with a network that predicts the velocity ε − x_0 (arXiv 2209.03003); t is σ.

    config: of diffusers' FlowMatchEulerDiscreteScheduler, which samples, with its shift towards noise.
    """

    samplers = ("euler",)
    free_spacing = False
    name = "rectified flow, velocity"

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._make = partial(FlowMatchEulerDiscreteScheduler.from_config, config, stochastic_sampling=False)
        self._make()  # a config that it refuses is refused now

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = t[:, None, None, None]
        return (1 - sigma) * x_0 + sigma * noise

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x_0

    def denoise(self, predict: Predict, x: Tensor, settings: SamplingSettings, fresh: Callable[[], Tensor]) -> Tensor:
        """Euler's steps at σ evenly spaced from 1 to 1/n, then shifted, as Z-Image's pipeline has them."""
        check_sampler(self, settings)
        n_steps = settings.steps
        scheduler = self._make()
        mu = _shift_of_size((x.shape[2] // 2) * (x.shape[3] // 2), scheduler.config)
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / n_steps, n_steps).tolist(), mu=mu)
        for sigma, time in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
            x = scheduler.step(predict(x, sigma.to(x.device)), time, x).prev_sample
        return x


def _shift_of_size(n_tokens: int, config: Mapping[str, Any]) -> float:
    """The shift's exponent for an image of so many tokens, linear between two sizes; read where the config asks for
    `use_dynamic_shifting` (arXiv 2403.03206, §5.3.2, as diffusers' pipelines have it)."""
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return n_tokens * slope + (config["base_shift"] - slope * config["base_image_seq_len"])


def image_of(x: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """x̂_0 = (x_t − √(1−ᾱ_t)·ε̂)/√ᾱ_t."""
    return (x - (1 - signal).sqrt() * noise) / signal.sqrt()


def noise_at(x: Tensor, image: Tensor, signal: Tensor) -> Tensor:
    """ε̂ of x̂_0: the inverse of `image_of`."""
    return (x - signal.sqrt() * image) / (1 - signal).sqrt()


@dataclass(frozen=True)
class Answer:
    """What the network took for the image, x̂_0, where the signal share was ᾱ [1]."""

    image: Tensor
    signal: Tensor


def extrapolated(before: Answer, now: Answer, signal_next: Tensor) -> Tensor:
    """x̂_0 in the middle of the step that is to come, on a line through the last two in log-SNR.

    The second order of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2). One answer alone is that of the step's
    beginning, which at high noise is too near to the mean of all images: it loses saturation. Never farther ahead than
    the two are apart: where the schedule is clamped they are nearly one, or one.
    """
    ahead = _half_log_snr(signal_next) - _half_log_snr(now.signal)
    behind = _half_log_snr(now.signal) - _half_log_snr(before.signal)
    if behind == 0:
        return now.image
    return now.image + (ahead / (2 * behind)).clamp(max=1) * (now.image - before.image)


def _half_log_snr(signal: Tensor) -> Tensor:
    return (signal / (1 - signal)).log() / 2


def ddim_step(x: Tensor, noise: Tensor, signal: Tensor, signal_next: Tensor) -> Tensor:
    """x_s = √ᾱ_s·x̂_0 + √(1−ᾱ_s)·ε̂ (DDIM, arXiv 2010.02502, η = 0)."""
    x_0 = image_of(x, noise, signal)
    return signal_next.sqrt() * x_0 + (1 - signal_next).sqrt() * noise


def ddpm_step(x: Tensor, noise: Tensor, signal: Tensor, signal_next: Tensor, fresh: Tensor) -> Tensor:
    """A draw from q(x_s | x_t, x̂_0), in the order of operations of diffusers' DDPMWuerstchenScheduler.

    fresh: standard normal noise of x's shape, zeros at the last step.
    """
    alpha = signal / signal_next
    mean = (1.0 / alpha).sqrt() * (x - (1 - alpha) * noise / (1 - signal).sqrt())
    return mean + ((1 - alpha) * (1.0 - signal_next) / (1.0 - signal)).sqrt() * fresh
