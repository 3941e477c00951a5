"""What training reads, all of it encoded beforehand, and the order and the noise in which it does so."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppd.diffusion.model.backbone import Text
from ppd.diffusion.training.timesteps import importance_weights, noise_levels, stratified
from ppd.seeding import generator
from ppd.settings import FinetuneSettings


@dataclass(frozen=True)
class Pairs:
    """Choices, as row numbers into a `TrainingData`: four int64 tensors [N]."""

    user: Tensor
    caption: Tensor
    chosen: Tensor
    rejected: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: Tensor | slice) -> "Pairs":
        return Pairs(self.user[rows], self.caption[rows], self.chosen[rows], self.rejected[rows])


@dataclass(frozen=True)
class TrainingData:
    """Latents [I, C, h, w], captions, people and their choices.

    A person has one embedding for each group of support pairs: person p's are `embeddings[first[p] : first[p + 1]]`, of
    shape [E, rows, dim]; first: [P + 1]. `train` is learned from. `seen` (the same people, other pairs) and `held_out`
    (other people) are only measured. Latents may be memory-mapped: rows are read when they are needed.
    """

    latents: Tensor
    text: Text
    embeddings: Tensor
    first: Tensor
    train: Pairs
    seen: Pairs
    held_out: Pairs
    pictures_hash: str
    """Names the pairs, their images and captions: all that the base's errors depend on, and not on embeddings."""
    content_hash: str
    """Names all of the above; part of the adapter's record."""
    user_ids: tuple[str, ...] = ()
    """What the log calls the users, for messages."""

    def name_of(self, user: int) -> str:
        """The user_id of a row number, or the number where none was given."""
        return self.user_ids[user] if self.user_ids else str(user)

    def embeddings_of(self, user: Tensor, u: Tensor) -> Tensor:
        """One embedding for each person of [B], picked by u [B] in [0, 1): [B, rows, dim]."""
        n_groups = self.first[user + 1] - self.first[user]
        return self.embeddings[self.first[user] + (u * n_groups).long()]  # in fp32 too u · n stays below n


def shuffled_users(users: Tensor) -> Tensor:
    """For each of [N] users another one among them: everyone moves on to the next, so none stays unless it is alone."""
    unique, index = torch.unique(users, return_inverse=True)
    return unique.roll(-1)[index]


@dataclass(frozen=True)
class Draw:
    """Everything random about a batch of B pairs, on the CPU."""

    pairs: Tensor
    """[B] row numbers of the pairs."""
    t: Tensor
    """[B] noise level of both images of a pair."""
    weight: Tensor
    """[B] importance weight of t: ones, unless the settings ask for another."""
    noise: Tensor
    """[B, C, h, w], one ε for both images of a pair."""
    group: Tensor
    """[B] in [0, 1): picks the support group that stands for the person."""
    keep_user: Tensor
    """[B] bool: False where user dropout makes the person nobody."""

    def __getitem__(self, rows: slice) -> "Draw":
        parts = (self.pairs, self.t, self.weight, self.noise, self.group, self.keep_user)
        return Draw(*(part[rows] for part in parts))


def steps_per_cycle(n_pairs: int, settings: FinetuneSettings) -> int:
    """After so many steps batches, t and noise repeat exactly; all steps of the run if they never do."""
    if settings.fresh_epochs is None:
        return settings.steps
    return min(settings.steps, max(1, settings.fresh_epochs * n_pairs // settings.pairs_per_step))


def draw_batch(step: int, n_pairs: int, latent_shape: tuple[int, ...], settings: FinetuneSettings) -> Draw:
    """The batch of one optimizer step, over all processes. A function of (seed, step) and nothing else.

    So a resumed run continues exactly, however the step is cut in micro-batches and processes, and two methods with one
    seed see the same pairs, noise levels and noise. Pairs go round in epochs, each in an order of its own.
    """
    n, seed = settings.pairs_per_step, settings.seed
    step %= steps_per_cycle(n_pairs, settings)
    positions = torch.arange(step * n, (step + 1) * n)
    pairs = torch.empty(n, dtype=torch.int64)
    for epoch in sorted(set((positions // n_pairs).tolist())):
        now = positions // n_pairs == epoch
        pairs[now] = torch.randperm(n_pairs, generator=generator("order", seed, epoch))[positions[now] % n_pairs]
    random = generator("batch", seed, step)
    r = stratified(n, random)
    distribution = settings.timesteps
    return Draw(
        pairs=pairs,
        t=noise_levels(r, distribution),
        weight=importance_weights(r, distribution) if distribution.importance_weighted else torch.ones(n),
        noise=torch.randn(n, *latent_shape, generator=random),
        group=torch.rand(n, generator=random),
        keep_user=torch.rand(n, generator=random) >= settings.user_dropout,
    )
