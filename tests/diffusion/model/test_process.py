"""Processes against closed forms: what they call the target is what the papers define, and steps undo noising."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from ppd.diffusion.model.process import (
    Answer,
    Cosine,
    Discrete,
    Prediction,
    Process,
    RectifiedFlow,
    extrapolated,
    step_times,
)
from ppd.diffusion.training.loss import denoising_error, margin, preference_loss
from ppd.errors import InputError
from ppd.settings import SamplingSettings


def drawn(n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, n, 4, 3, 3, generator=g, dtype=torch.float64)
    return x_0, noise, torch.linspace(0.05, 0.98, n, dtype=torch.float64)


def test_the_epsilon_and_the_v_form_of_one_model_have_the_losses_of_the_papers() -> None:
    """e_v = e_ε / ᾱ(t) (arXiv 2202.00512, appendix D), so each form's margin is that of its own target."""
    of_noise, of_v = Cosine("epsilon"), Cosine("v_prediction")
    x_0, noise, t = drawn()
    x_t = of_noise.add_noise(x_0, noise, t)
    alpha_bar = of_noise.alpha_bar(t)[:, None, None, None]
    errors: dict[Prediction, list[Tensor]] = {"epsilon": [], "v_prediction": []}
    for i in range(4):  # winner and loser by the model, then by the reference
        predicted = noise + 0.1 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(i))
        implied_x_0 = (x_t - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()
        as_v = alpha_bar.sqrt() * predicted - (1 - alpha_bar).sqrt() * implied_x_0
        torch.testing.assert_close(of_v.noise_of(as_v, x_t, t), predicted)
        errors["epsilon"].append(denoising_error(predicted, of_noise.target(x_0, noise, t)))
        errors["v_prediction"].append(denoising_error(as_v, of_v.target(x_0, noise, t)))
    for e, v in zip(*errors.values(), strict=True):
        torch.testing.assert_close(v, e / of_noise.alpha_bar(t))
    for name, scale in {"epsilon": torch.ones_like(t), "v_prediction": 1 / of_noise.alpha_bar(t)}.items():
        m = margin(*(e * scale for e in errors["epsilon"]))
        expected = torch.log1p(torch.exp(20.0 / 2 * m)).mean()  # Diffusion-DPO, arXiv 2311.12908, eq. 14
        torch.testing.assert_close(preference_loss(margin(*errors[name]), 20.0), expected)


def no_noise() -> Tensor:
    pytest.fail("no noise is added")


@pytest.mark.parametrize("spacing", [1.0, 2.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_steps_with_the_true_answer_lead_to_the_image(prediction: Prediction, spacing: float) -> None:
    process = Cosine(prediction)
    x_0, noise, _ = drawn()
    x_0, noise = x_0.float(), noise.float()

    def answer(x: Tensor, t: Tensor) -> Tensor:
        return process.target(x_0, noise, t.expand(len(x)))

    start = process.add_noise(x_0, noise, torch.ones(len(x_0)))
    ends = process.denoise(answer, start, SamplingSettings(steps=6, sampler="ddim", spacing=spacing), no_noise)
    expected = process.add_noise(x_0, noise, torch.zeros(len(x_0)))
    # At t = 1 the image is 1 % of x_t: fp32 recovers it to some digits only.
    torch.testing.assert_close(ends, expected, rtol=1e-3, atol=1e-3)


def test_a_sampler_that_belongs_to_another_process_is_refused() -> None:
    settings = SamplingSettings(steps=1, sampler="euler")
    with pytest.raises(InputError, match="sampling.sampler is euler, .* Use ddim or ddpm"):
        Cosine("epsilon").denoise(lambda x, t: x, torch.zeros(1, 1, 1, 1), settings, no_noise)


def test_stochastic_steps_keep_the_spread_of_colours_and_narrow_that_of_details() -> None:
    """Of numbers N(0, sd²) the true answer is known, and so is how much of their spread few steps lose.

    A picture's mean colour, known over all of its 256 latents, is decided at high noise as a number of sd 16 is.
    """
    process = Cosine("epsilon")

    def spread(sd: float, sampler: str, n_steps: int) -> float:
        def answer(x: Tensor, t: Tensor) -> Tensor:  # E[ε | x_t]
            alpha_bar = process.alpha_bar(t[None])
            return (1 - alpha_bar).sqrt() / (alpha_bar * sd**2 + 1 - alpha_bar) * x

        g = torch.Generator().manual_seed(0)
        x = torch.randn(20_000, 1, 1, 1, generator=g)
        settings = SamplingSettings(steps=n_steps, sampler=sampler, spacing=3)  # type: ignore[arg-type]
        ends = process.denoise(answer, x, settings, lambda: torch.randn(x.shape, generator=g))
        return float(ends.std() / sd)

    assert spread(16, "ddpm", 12) < 0.8 < 0.9 < spread(16, "stochastic", 12)
    assert spread(1, "stochastic", 12) < 0.7 < spread(1, "ddpm", 12)


@pytest.mark.parametrize("apart", [0.0, 1e-9])
def test_two_answers_at_nearly_one_level_are_no_line(apart: float) -> None:
    """At the clamped end of the schedule: what they differ by is the network's error, which nothing may multiply."""
    before, now = (Answer(torch.full((1,), x), torch.tensor([1e-4 + d])) for x, d in ((0.0, 0.0), (1.0, apart)))
    assert 1 <= float(extrapolated(before, now, torch.tensor([1e-2]))) <= 2


def test_steps_are_spaced_towards_the_noise_from_1_to_0() -> None:
    assert step_times(4, 1.0).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert step_times(4, 2.0).tolist() == [1, 0.9375, 0.75, 0.4375, 0]


@pytest.mark.parametrize("process", [RectifiedFlow({}), Discrete({})], ids=["flow", "table"])
def test_a_spacing_is_refused_where_the_scheduler_has_its_own(process: Process) -> None:
    settings = SamplingSettings(steps=1, sampler=process.samplers[0], spacing=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sampling.spacing is 2, .* Use 1"):
        process.denoise(lambda x, t: x, torch.zeros(1, 1, 1, 1), settings, no_noise)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_table_of_steps_is_the_schedulers(prediction: Prediction) -> None:
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": prediction}
    process, scheduler = Discrete(config), DDPMScheduler(**config)
    x_0, noise, _ = drawn()
    x_0, noise = x_0.float(), noise.float()
    t = torch.tensor([1e-3, 0.4999, 0.5, 0.9999, 1.0])
    steps = process.step_of(t)
    assert steps.tolist() == [1, 499, 500, 999, 999]
    torch.testing.assert_close(process.add_noise(x_0, noise, t), scheduler.add_noise(x_0, noise, steps))
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(x_0, noise, steps)
    torch.testing.assert_close(process.target(x_0, noise, t), expected)
    assert process.name != Discrete(config | {"beta_end": 0.02}).name


def test_a_flow_is_the_schedulers() -> None:
    process, scheduler = RectifiedFlow({"shift": 3.0}), FlowMatchEulerDiscreteScheduler(shift=3.0)
    x_0, noise, _ = drawn()
    sigma = scheduler.sigmas[[0, 100, 500, 900, 999]]
    expected = scheduler.scale_noise(x_0.float(), scheduler.timesteps[[0, 100, 500, 900, 999]], noise.float())
    torch.testing.assert_close(process.add_noise(x_0.float(), noise.float(), sigma), expected)
    slope = (process.add_noise(x_0, noise, sigma + 1e-3) - process.add_noise(x_0, noise, sigma)) / 1e-3
    torch.testing.assert_close(process.target(x_0, noise, sigma), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["epsilon", "v_prediction", "flow", "flow, shifted by size"])
def test_the_librarys_steps_with_the_true_answer_lead_to_the_image(name: str) -> None:
    process: Process
    if name.startswith("flow"):
        process = RectifiedFlow({"use_dynamic_shifting": "size" in name})
    else:
        process = Discrete({"beta_schedule": "scaled_linear", "steps_offset": 1, "prediction_type": name})
    x_0, noise, _ = (part.float() for part in drawn())
    x_0 *= 3  # beyond the 1 at which a scheduler clips that is not told otherwise
    levels: list[float] = []

    def answer(x: Tensor, t: Tensor) -> Tensor:
        levels.append(t.item())
        return process.target(x_0, noise, t.expand(len(x)))

    start = process.add_noise(x_0, noise, torch.full((len(x_0),), 0.981 if isinstance(process, Discrete) else 1.0))
    settings = SamplingSettings(steps=50, sampler=process.samplers[0], spacing=1)  # type: ignore[arg-type]
    ends = process.denoise(answer, start, settings, no_noise)
    assert levels == sorted(levels, reverse=True)
    assert 0 < levels[-1] < 0.1 < 0.9 < levels[0] <= 1
    torch.testing.assert_close(ends, x_0, rtol=2e-2, atol=2e-2)


def test_a_network_that_predicts_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="prediction_type is 'sample'; expected epsilon or v_prediction"):
        Discrete({"prediction_type": "sample"})
