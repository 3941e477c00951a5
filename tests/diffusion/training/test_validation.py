"""What is measured on held-out pairs."""

import pytest
import torch

from ppd.diffusion.adapter.user_attention import UserAttention
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.validation import HeldOutEvaluation
from tests.diffusion.tastes import changed


@pytest.mark.parametrize("micro_batch_pairs", [1, 3, 8])
def test_held_out_pairs_are_read_with_other_users_embeddings_however_they_are_batched(
    backbone: StableCascadeBackbone, data: TrainingData, micro_batch_pairs: int
) -> None:
    """In a batch of one, or a last batch of one, there is nobody beside whom to take: others come from all pairs."""
    settings = changed(evaluation_pairs=7)
    adapter = UserAttention.beside(backbone, tuple(data.embeddings.shape[1:]), settings.attention)
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    adapter.attach(backbone)
    try:
        held_out = HeldOutEvaluation(backbone, adapter, data, data.held_out, settings, micro_batch_pairs)
        own = torch.cat([batch.users.chunk(2)[0] for batch in held_out.batches])
        others = torch.cat([other.chunk(2)[0] for other in held_out.others])
        assert len(own) == 7
        assert (own != others).flatten(1).any(dim=1).all(), "nobody is read as themselves"
        found = held_out.metrics()
        whole = HeldOutEvaluation(backbone, adapter, data, data.held_out, settings, 24)
        assert found == pytest.approx(whole.metrics(), rel=1e-3, abs=1e-6)
        assert found["user_gap"] == pytest.approx(found["accuracy"] - found["accuracy_shuffled_user"])
        one = data.held_out[data.held_out.user == data.held_out.user[0]]
        alone = HeldOutEvaluation(backbone, adapter, data, one, settings, 24).metrics()
        assert alone.keys() == {"accuracy", "margin"}, "there is nobody to shuffle with"
    finally:
        adapter.detach()
