"""From pairs to a loss: noising, errors beside the frozen base's, and the terms that the settings ask for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppd.device import sent
from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone, Text
from ppd.diffusion.training.dataset import Draw, Pairs, TrainingData
from ppd.diffusion.training.loss import denoising_error, margin, preference_loss, safeguarded_loser_error
from ppd.settings import LossSettings

Stats = dict[str, float]
Measured = dict[str, Tensor]
"""Numbers that are still on the device, each of shape []: fetching one waits for all that leads to it."""


@dataclass(frozen=True)
class NoisyPairs:
    """B pairs ready for a forward on the device: B winners, then B losers (or only winners, for SFT)."""

    x_t: Tensor
    target: Tensor
    """[2B, C, h, w] what the base's network was trained to answer at x_t; errors are those of it."""
    t: Tensor
    text: Text
    users: Tensor
    user: Tensor
    """[B] row number of the pair's user."""
    weight: Tensor
    """[B] importance weight of t."""


def noisy_pairs(backbone: Backbone, data: TrainingData, pairs: Pairs, draw: Draw, *, losers: bool) -> NoisyPairs:
    """Noise the images of `pairs` with one t and one ε a pair."""
    copies, device = (2 if losers else 1), backbone.device
    images = torch.cat([pairs.chosen, pairs.rejected]) if losers else pairs.chosen
    noise, t = sent(draw.noise, device).repeat(copies, 1, 1, 1), sent(draw.t, device).repeat(copies)
    x_0 = sent(data.latents[images], device).float()
    users = data.embeddings_of(pairs.user, draw.group) * draw.keep_user[:, None, None]
    text = data.text[pairs.caption].to(device)
    return NoisyPairs(
        x_t=backbone.process.add_noise(x_0, noise, t),
        target=backbone.process.target(x_0, noise, t),
        t=t,
        text=Text.cat([text] * copies),
        users=sent(users, device).repeat(copies, 1, 1),
        user=sent(pairs.user, device),
        weight=sent(draw.weight, device),
    )


@torch.no_grad()
def base_errors(backbone: Backbone, adapter: UserAttention, batch: NoisyPairs) -> Tensor:
    """e_ref [2B]: the same weights with the user branch off, in place of a second copy of the model."""
    with adapter.users(None):
        return denoising_error(backbone.predict(batch.x_t, batch.t, batch.text), batch.target)


def sft_objective(residual: Tensor, batch: NoisyPairs) -> tuple[Tensor, Measured]:
    """Denoising error of the chosen images alone. residual: prediction − target [B, C, h, w]."""
    errors = residual.square().mean(dim=(1, 2, 3))
    return (batch.weight * errors).mean(), {"error_chosen": errors.detach().mean()}


def preference_objective(
    residual: Tensor, reference: Tensor, batch: NoisyPairs, loss: LossSettings
) -> tuple[Tensor, Measured]:
    """Preference loss with the options of `loss`, and what the curve shows of it.

    residual: prediction − target of winners, then losers [2B, C, h, w]. reference: e_ref [2B].
    """
    residual_w, residual_l = residual.chunk(2)
    error_w, error_l = residual.square().mean(dim=(1, 2, 3)).chunk(2)
    reference_w, reference_l = reference.chunk(2)
    if loss.safeguard is not None:
        error_l = safeguarded_loser_error(error_l, residual_w, residual_l, loss.safeguard)
    m = margin(error_w, error_l, reference_w, reference_l)
    total = preference_loss(m, loss.beta, batch.weight)
    if loss.winner_anchor:
        total = total + loss.winner_anchor * (batch.weight * error_w).mean()
    columns = [m, error_w, error_l, reference_w, reference_l]
    names = ["margin", "error_chosen", "error_rejected", "reference_chosen", "reference_rejected"]
    means = torch.stack(columns).detach().mean(dim=1)
    return total, dict(zip(names, means, strict=True)) | {"accuracy": accuracy(m)}


def accuracy(m: Tensor) -> Tensor:
    """Share of margins below 0: pairs on which the model leans to the winner more than the base; ties count half."""
    return ((m < 0).float() + 0.5 * (m == 0).float()).mean()
