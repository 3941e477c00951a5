"""What the prior sees at a step depends on the step alone, whoever rendered it and drew its noise."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import Tensor

from ppd.diffusion.model.codec import ImageCodec
from ppd.pretrain import ahead as ahead_module
from ppd.pretrain import latent_pool, renderer
from ppd.pretrain.latent_pool import CAPTIONS, EMPTY, LatentPool
from ppd.simulation.render import Atlas

CPU = torch.device("cpu")
STEPS = (0, 1, 2, 3, 4, 5)


def _pool(atlas: Atlas) -> LatentPool:
    torch.manual_seed(0)
    codec = ImageCodec(width=16).eval()
    return LatentPool(atlas, codec, CPU, name="test", seed=0, size=300, steps_each=2, steps=len(STEPS))


def _seen(pool: LatentPool, steps: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    return (pool.batch(step, *pool.rows(step, 16, 0.5)) for step in steps)


def test_renders_of_other_processes_are_the_same(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    here = list(_seen(_pool(atlas), STEPS))
    with ProcessPoolExecutor(1, initializer=renderer.begin, initargs=(atlas,)) as process:
        monkeypatch.setattr(latent_pool, "side_processes", lambda *_: process)
        elsewhere = list(_seen(_pool(atlas), STEPS))
    for (latents, captions), (other_latents, other_captions) in zip(here, elsewhere, strict=True):
        assert torch.equal(latents, other_latents)
        assert torch.equal(captions, other_captions)


def test_a_step_is_the_same_whatever_came_before(atlas: Atlas) -> None:
    in_turn = list(_seen(_pool(atlas), STEPS))
    for step, (latents, captions) in zip((4, 1), _seen(_pool(atlas), (4, 1)), strict=True):
        assert torch.equal(latents, in_turn[step][0])
        assert torch.equal(captions, in_turn[step][1])


def test_pools_change_and_some_captions_are_withheld(atlas: Atlas) -> None:
    pool = _pool(atlas)
    (first, captions), (later, _) = _seen(pool, (0, 2))
    assert not torch.equal(first, later)
    assert {EMPTY} < set(captions.tolist()) <= set(range(len(CAPTIONS)))


def test_draws_made_ahead_are_those_of_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing is made ahead; the threads are those of a GPU, with its memory played by the CPU's."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "to", lambda tensor, device, non_blocking: tensor)
    of = ahead_module.ahead(lambda step: (torch.tensor(step),), torch.device("cuda"))
    assert [of(step)[0].item() for step in (3, 4, 5, 6, 20, 21)] == [3, 4, 5, 6, 20, 21]


def test_a_process_that_renders_imports_no_torch() -> None:
    """Fifteen of them begin beside each training: with torch that took longer than the training."""
    asked = "import sys, ppd.pretrain.renderer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0
