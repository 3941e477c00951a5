"""The fine-tuned model as a predictor of choices: its implicit reward, with no judge and no sampled image.

Diffusion-DPO's reward of an image is how much better than the base the model denoises it, so −m of a pair says which
image the model takes for the chosen one (`ppd.diffusion.training.loss.margin`). A user's embedding makes it a
personal reward.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import Draw, Pairs, TrainingData
from ppd.diffusion.training.loss import denoising_error, margin
from ppd.diffusion.training.objective import base_errors, noisy_pairs
from ppd.diffusion.training.timesteps import noise_levels, stratified
from ppd.seeding import generator
from ppd.settings import TimestepSettings

BATCH = 64


@torch.no_grad()
def rewards(
    backbone: Backbone,
    adapter: UserAttention,
    data: TrainingData,
    pairs: Pairs,
    readers: dict[str, Tensor],
    distribution: TimestepSettings,
    n_draws: int = 1,
) -> dict[str, Tensor]:
    """−m of each of N pairs, a mean over `n_draws` of (t, ε), read as each of several users: name -> [N].

    readers: as whom the pairs are read, embeddings [N, rows, dim]. Errors are those of the base's own target.
    The same pairs get the same draws whichever model reads them.
    """
    sums = {name: torch.zeros(len(pairs)) for name in readers}
    for number in range(n_draws):
        for rows, draw in _draws(data, pairs, distribution, number):
            batch = noisy_pairs(backbone, data, pairs[rows], draw, losers=True)
            reference_w, reference_l = base_errors(backbone, adapter, batch).chunk(2)
            for name, users in readers.items():
                with adapter.users(users[rows].repeat(2, 1, 1).to(backbone.device)):
                    predicted = backbone.predict(batch.x_t, batch.t, batch.text)
                error_w, error_l = denoising_error(predicted, batch.target).chunk(2)
                sums[name][rows] -= margin(error_w, error_l, reference_w, reference_l).cpu() / n_draws
    return sums


def _draws(
    data: TrainingData, pairs: Pairs, distribution: TimestepSettings, number: int
) -> Iterator[tuple[slice, Draw]]:
    """Draws of all pairs, batch by batch; t is spread evenly over its distribution."""
    n = len(pairs)
    random = generator("implicit", number)
    draw = Draw(
        pairs=torch.arange(n),
        t=noise_levels(stratified(n, random), distribution),
        weight=torch.ones(n),
        noise=torch.randn(n, *data.latents.shape[1:], generator=random),
        group=torch.zeros(n),
        keep_user=torch.ones(n, dtype=torch.bool),
    )
    for start in range(0, n, BATCH):
        rows = slice(start, min(start + BATCH, n))
        yield rows, draw[rows]


def first_embeddings(data: TrainingData, user: Tensor) -> Tensor:
    """The embedding of each user's first support group: [B] -> [B, rows, dim]."""
    return data.embeddings[data.first[user]]
