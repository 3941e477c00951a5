"""Which pairs, noises and support groups a step draws."""

import torch

from ppd.diffusion.training.dataset import TrainingData, draw_batch
from tests.diffusion.tastes import SETTINGS, changed


def test_draws_depend_on_seed_and_step_and_both_images_share_them(data: TrainingData) -> None:
    shape = (4, 4, 4)
    a, b = draw_batch(3, 20, shape, SETTINGS), draw_batch(3, 20, shape, SETTINGS)
    assert torch.equal(a.noise, b.noise)
    assert torch.equal(a.pairs, b.pairs)
    assert not torch.equal(a.noise, draw_batch(4, 20, shape, SETTINGS).noise)
    assert not torch.equal(a.noise, draw_batch(3, 20, shape, changed(seed=1)).noise)
    epoch = torch.cat([draw_batch(step, 20, shape, SETTINGS).pairs for step in range(5)])  # 40 positions: two epochs
    assert torch.equal(epoch[:20].sort().values, torch.arange(20))
    assert torch.equal(epoch[20:40].sort().values, torch.arange(20))
    assert not torch.equal(epoch[:20], epoch[20:40])
    again = changed(fresh_epochs=2)
    assert torch.equal(draw_batch(0, 20, shape, again).noise, draw_batch(5, 20, shape, again).noise)


def test_every_support_group_of_a_person_gets_its_turn(data: TrainingData) -> None:
    user = torch.tensor([2, 2, 2])
    picked = data.embeddings_of(user, torch.tensor([0.0, 0.49, 0.51]))
    assert torch.equal(picked[0], data.embeddings[4])
    assert torch.equal(picked[1], data.embeddings[4])
    assert torch.equal(picked[2], data.embeddings[5])
