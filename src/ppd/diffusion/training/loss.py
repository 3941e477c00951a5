"""What training minimises: functions of tensors, one number a pair in, one number out.

Legend: B pairs; C, h, w latent. `w` is the winner (the chosen image), `l` the loser (the rejected one). Both images of
a pair share t and ε.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus


def denoising_error(predicted: Tensor, target: Tensor) -> Tensor:
    """e = mean over C, h, w of (prediction − target)²: [B, C, h, w] -> [B]. The mean, not the sum: β is tied to it.

    The target is the network's own, ε, v or a flow's velocity (`ppd.diffusion.model.process`): nothing weighs t.
    """
    return (predicted - target).square().mean(dim=(1, 2, 3))


def margin(error_w: Tensor, error_l: Tensor, reference_w: Tensor, reference_l: Tensor) -> Tensor:
    """m = [e_θ(w) − e_θ(l)] − [e_ref(w) − e_ref(l)]: [B]; below 0, nearer the winner than the base is."""
    return (error_w - error_l) - (reference_w - reference_l)


def preference_loss(margin: Tensor, beta: float, weight: Tensor | None = None) -> Tensor:
    """L = mean over pairs of −log σ(−(β/2)·m) = log(1 + exp((β/2)·m)): [B] -> scalar; ln 2 where the model is the base.

    Diffusion-DPO (arXiv 2311.12908, eq. 14) with both errors conditioned on the person (PPD, arXiv 2501.06655).
    `weight` [B] multiplies each pair's loss, outside the logarithm.
    """
    losses = softplus(beta / 2 * margin)
    return losses.mean() if weight is None else (weight * losses).mean()


def safeguarded_loser_error(error_l: Tensor, residual_w: Tensor, residual_l: Tensor, slack: float) -> Tensor:
    """The loser's error with its gradient scaled down so that, to first order, the winner's error does not grow: [B].

    With g = prediction − target, a step along −(g_w − λ·g_l) changes the winner's error by −(|g_w|² − λ·⟨g_w, g_l⟩), so
    λ = min(1, (1 − μ)·|g_w|² / ⟨g_w, g_l⟩) where the gradients agree, 1 elsewhere; μ is `slack`. The value of the error
    stays as it is. Diffusion-SDPO (arXiv 2511.03317). residuals: prediction − target, [B, C, h, w].
    """
    with torch.no_grad():
        agreement = (residual_w * residual_l).sum(dim=(1, 2, 3))
        bound = (1 - slack) * residual_w.square().sum(dim=(1, 2, 3)) / agreement
        scale = torch.where(agreement > 0, bound.clamp(max=1), 1.0)
    return error_l.detach() + scale * (error_l - error_l.detach())


def dispersion_loss(user_tokens: Tensor, user: Tensor, temperature: float) -> Tensor:
    """Keeps people apart: mean over rows of log(1 + Σ_j exp((cos(z_i, z_j) − 1)/τ)) over the rows j of other people.

    This is InfoNCE with the row itself as its positive; 0 when everybody is the same person. Against the collapse of
    all people into one pooled taste (Premier, arXiv 2603.20725). user_tokens: [B, n, width]; person: [B] ids.
    """
    z = normalize(user_tokens.flatten(1), dim=1)
    logits = (z @ z.T - 1) / temperature
    others = user[:, None] != user[None, :]
    return logits.masked_fill(~others, -torch.inf).exp().sum(dim=1).log1p().mean()
