"""How well an adapter tells winners from losers on pairs that it does not learn from."""

import torch
from torch import Tensor

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import Draw, Pairs, TrainingData, shuffled_users
from ppd.diffusion.training.learned import personal_gap
from ppd.diffusion.training.loss import denoising_error, margin
from ppd.diffusion.training.objective import Stats, accuracy, base_errors, noisy_pairs
from ppd.diffusion.training.timesteps import noise_levels, stratified
from ppd.seeding import generator
from ppd.settings import FinetuneSettings


class HeldOutEvaluation:
    """Pairs with t and ε of their own that never change, and the base's errors on them, computed once.

    It needs no judge and no image: the implicit reward of Diffusion-DPO, −m, says which image the model prefers.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: UserAttention,
        data: TrainingData,
        pairs: Pairs,
        settings: FinetuneSettings,
        micro_batch_pairs: int,
    ) -> None:
        self.backbone, self.adapter = backbone, adapter
        random = generator("exam")
        pairs = pairs[torch.randperm(len(pairs), generator=random)[: settings.evaluation_pairs]]
        n = len(pairs)
        draw = Draw(
            pairs=torch.arange(n),
            t=noise_levels(stratified(n, random), settings.timesteps),
            weight=torch.ones(n),
            noise=torch.randn(n, *data.latents.shape[1:], generator=random),
            group=torch.rand(n, generator=random),
            keep_user=torch.ones(n, dtype=torch.bool),
        )
        parts = [slice(start, start + micro_batch_pairs) for start in range(0, n, micro_batch_pairs)]
        self.batches = [noisy_pairs(backbone, data, pairs[rows], draw[rows], losers=True) for rows in parts]
        # Over all pairs, not within a batch: in a batch of one, or of one user, nobody would be exchanged.
        others = data.embeddings_of(shuffled_users(pairs.user), draw.group)
        self.others = [others[rows].repeat(2, 1, 1).to(backbone.device) for rows in parts]
        self.users = pairs.user
        self.reference = [base_errors(backbone, adapter, batch) for batch in self.batches]

    @torch.no_grad()
    def metrics(self) -> Stats:
        """Implicit accuracy and margin; and the accuracy when each pair is read with another user's embedding, with
        what `personal_gap` says of the two.

        If accuracy does not fall when users are shuffled, the adapter has learned a pooled taste. With one user alone
        there is nobody to shuffle with, and no such number.
        """
        own: list[Tensor] = []
        shuffled: list[Tensor] = []
        for batch, reference, others in zip(self.batches, self.reference, self.others, strict=True):
            reference_w, reference_l = reference.chunk(2)
            for users, margins in ((batch.users, own), (others, shuffled)):
                with self.adapter.users(users):
                    predicted = self.backbone.predict(batch.x_t, batch.t, batch.text)
                error_w, error_l = denoising_error(predicted, batch.target).chunk(2)
                margins.append(margin(error_w, error_l, reference_w, reference_l))
        if not own:
            return {}
        m = torch.cat(own)
        found = {"accuracy": accuracy(m), "margin": m.mean()}
        several = len(self.users.unique()) > 1
        if several:
            found["accuracy_shuffled_user"] = accuracy(torch.cat(shuffled))
        stats: Stats = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
        return stats | (personal_gap(m, torch.cat(shuffled), self.users) if several else {})
