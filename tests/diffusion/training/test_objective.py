"""The objectives on numbers that can be checked in the head, and the draws that they are computed on."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ppd.diffusion.model.backbone import Backbone
from ppd.diffusion.training.dataset import Draw, Pairs, TrainingData, draw_batch, shuffled_users, steps_per_cycle
from ppd.diffusion.training.objective import accuracy, noisy_pairs, preference_objective, sft_objective
from ppd.diffusion.training.timesteps import importance_weights, noise_levels, stratified
from ppd.seeding import generator
from ppd.settings import LossSettings
from tests.diffusion.tastes import changed

WEIGHT = SimpleNamespace(weight=torch.tensor([2.0, 0.5, 1.0]))
RESIDUAL = torch.tensor([1.0, 2.0, 2.0, 3.0, 4.0, 2.0]).view(6, 1, 1, 1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
REFERENCE = torch.tensor([2.0, 3.0, 4.0, 5.0, 7.0, 4.0])
"""Errors of winners 1, 4, 4, of losers 9, 16, 4; the base's are 2, 3, 4 and 5, 7, 4. So margins are −5, −8 and 0."""


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_preference_loss_by_hand() -> None:
    loss, measured = preference_objective(RESIDUAL, REFERENCE, WEIGHT, LossSettings(beta=0.5, winner_anchor=0))
    plain = (2 * softplus(0.25 * -5) + 0.5 * softplus(0.25 * -8) + softplus(0)) / 3
    assert loss.item() == pytest.approx(plain)
    assert {name: value.item() for name, value in measured.items()} == pytest.approx(
        {
            "margin": -13 / 3,
            "error_chosen": 9 / 3,
            "error_rejected": 29 / 3,
            "reference_chosen": 9 / 3,
            "reference_rejected": 16 / 3,
            "accuracy": 2.5 / 3,
        }
    )
    anchored = LossSettings(beta=0.5, winner_anchor=3.0)
    loss, _ = preference_objective(RESIDUAL, REFERENCE, WEIGHT, anchored)
    assert loss.item() == pytest.approx(plain + 3 * (2 * 1 + 0.5 * 4 + 4) / 3)


def test_the_safeguard_is_used_where_it_is_set() -> None:
    """With μ = 1/2: λ = |g_w|²/(2·⟨g_w, g_l⟩), 1/6, 1/4 and 1/2, of the loser's gradient; the loss stays as it is."""

    def gradient(safeguard: float | None) -> tuple[float, Tensor]:
        residual = RESIDUAL.clone().requires_grad_()
        loss, _ = preference_objective(
            residual, REFERENCE, WEIGHT, LossSettings(beta=0.5, winner_anchor=0, safeguard=safeguard)
        )
        loss.backward()
        return loss.item(), residual.grad

    (plain, without), (guarded, within) = gradient(None), gradient(0.5)
    assert plain == guarded
    assert torch.equal(within[:3], without[:3])
    torch.testing.assert_close(within[3:], without[3:] * torch.tensor([1 / 6, 1 / 4, 1 / 2]).view(3, 1, 1, 1))


def test_the_loss_of_the_chosen_images_by_hand() -> None:
    loss, measured = sft_objective(RESIDUAL[:3], WEIGHT)
    assert loss.item() == pytest.approx((2 * 1 + 0.5 * 4 + 4) / 3)
    assert measured["error_chosen"].item() == 3


def test_a_tie_counts_half() -> None:
    assert accuracy(torch.tensor([-0.5, 0.0, 0.5, 2.0])).item() == 0.375


def test_both_images_of_a_pair_share_user_caption_noise_and_level(backbone: Backbone) -> None:
    g = torch.Generator().manual_seed(0)
    data = TrainingData(
        latents=torch.randn(4, 4, 4, 4, generator=g),
        text=backbone.encode_captions(["a sticker of a fox", "a sticker of a tree"]),
        embeddings=torch.randn(3, 2, 6, generator=g),
        first=torch.tensor([0, 1, 3]),
        train=(none := Pairs(*(torch.empty(0, dtype=torch.int64),) * 4)),
        seen=none,
        held_out=none,
        pictures_hash="",
        content_hash="",
    )
    pairs = Pairs(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([3, 1]))
    t, noise, weight = torch.tensor([0.3, 0.9]), torch.randn(2, 4, 4, 4, generator=g), torch.tensor([2.0, 0.5])
    draw = Draw(torch.arange(2), t, weight, noise, torch.tensor([0.9, 0.0]), torch.tensor([True, False]))
    both, chosen = (noisy_pairs(backbone, data, pairs, draw, losers=losers) for losers in (True, False))
    for part, rows in ((both, [0, 2, 3, 1]), (chosen, [0, 2])):
        times = len(rows) // 2
        x_0, each, levels = data.latents[rows], noise.repeat(times, 1, 1, 1), t.repeat(times)
        assert torch.equal(part.x_t, backbone.process.add_noise(x_0, each, levels))
        assert torch.equal(part.target, backbone.process.target(x_0, each, levels))
        assert torch.equal(part.t, levels)
        assert torch.equal(part.text.tokens, data.text[torch.tensor([0, 1]).repeat(times)].tokens)
        users = torch.stack([data.embeddings[2], torch.zeros(2, 6)])
        assert torch.equal(part.users, users.repeat(times, 1, 1))
        assert torch.equal(part.user, pairs.user)
        assert torch.equal(part.weight, weight)


def test_draws_repeat_after_the_epochs_that_are_asked_for() -> None:
    steps = {"steps": 100, "pairs_per_step": 8}
    assert steps_per_cycle(20, changed(**steps)) == 100
    assert steps_per_cycle(20, changed(**steps, fresh_epochs=2)) == 5
    assert steps_per_cycle(20, changed(**steps, fresh_epochs=1000)) == 100
    assert steps_per_cycle(3, changed(**steps, fresh_epochs=1)) == 1, "of fewer pairs than a step has"


def test_a_draw_is_what_its_settings_say() -> None:
    """Levels and weights of one r, in strata; and nobody is dropped where the share of it is 0 or all where it is 1."""
    settings = changed(timesteps={"low": 0.6, "high": 0.9, "power": 1.7})
    weighted = changed(timesteps={"low": 0.6, "high": 0.9, "power": 1.7, "importance_weighted": True})
    r = stratified(8, generator("batch", settings.seed, 3))
    plain, importance = (draw_batch(3, 20, (4, 4, 4), each) for each in (settings, weighted))
    assert torch.equal(plain.t, noise_levels(r, settings.timesteps))
    assert torch.equal(plain.weight, torch.ones(8))
    assert torch.equal(importance.weight, importance_weights(r, settings.timesteps))
    assert plain.noise.shape == (8, 4, 4, 4)
    assert plain.keep_user.all()
    assert not draw_batch(3, 20, (4, 4, 4), changed(user_dropout=1.0)).keep_user.any()


def test_without_dropout_also_the_least_random_number_keeps_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.zeros(n))
    assert draw_batch(0, 20, (4, 4, 4), changed(user_dropout=0.0)).keep_user.all()


def test_everyone_is_exchanged_for_the_next_user() -> None:
    assert shuffled_users(torch.tensor([5, 9, 5, 7, 7])).tolist() == [7, 5, 7, 9, 9]
    assert shuffled_users(torch.tensor([5, 5])).tolist() == [5, 5]


def test_the_largest_random_number_picks_the_last_group_and_none_beyond() -> None:
    n = torch.arange(1, 5000)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), n.cumsum(0)])
    data = SimpleNamespace(embeddings=torch.arange(first[-1]), first=first)
    largest = torch.full((len(n),), 1 - 2.0**-24)
    assert torch.equal(TrainingData.embeddings_of(data, torch.arange(len(n)), largest), first[1:] - 1)
    assert torch.equal(TrainingData.embeddings_of(data, torch.arange(len(n)), torch.zeros(len(n))), first[:-1])


@pytest.mark.parametrize(("ids", "name"), [((), "1"), (("ann", "ben"), "ben")])
def test_messages_call_a_user_what_the_log_does(ids: tuple[str, ...], name: str) -> None:
    assert TrainingData.name_of(SimpleNamespace(user_ids=ids), 1) == name
