"""The shared training loop: resuming, averaging, stopping."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ppd.errors import InputError
from ppd.pretrain.loop import Curve, LoopSettings, averaged_weights, fit, learning_rate_at


class _Killed(Exception):
    pass


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def _settings(**changes: object) -> LoopSettings:
    values: dict[str, object] = {
        "steps": 30,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "record_every_steps": 5,
        "checkpoint_every_s": 0,
        "publish_every_s": 1e9,
    }
    return LoopSettings.model_validate(values | changes)


def _run(state: Path, settings: LoopSettings, kill_at: int | None = None) -> tuple[Curve, dict[str, Tensor]]:
    """Fit a line; returns the curve and the published weights."""
    network, published = _network(), {}

    def loss_at(step: int) -> Tensor:
        if step == kill_at:
            raise _Killed
        x = torch.randn(settings.batch_size, 4, generator=torch.Generator().manual_seed(step))
        return (network(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def publish(curve: Curve) -> None:
        published.update({name: value.clone() for name, value in network.state_dict().items()})

    curve = fit(network, loss_at, settings, state, publish, title="line")
    return curve, published


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    curve, weights = _run(tmp_path / "whole", _settings())
    with pytest.raises(_Killed):
        _run(tmp_path / "cut", _settings(), kill_at=13)
    resumed_curve, resumed = _run(tmp_path / "cut", _settings())
    assert [r.loss for r in resumed_curve] == [r.loss for r in curve]
    assert [r.step for r in curve] == [5, 10, 15, 20, 25, 30]
    for name, value in weights.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)


def test_a_finished_run_is_published_again_and_not_trained_again(tmp_path: Path) -> None:
    _, weights = _run(tmp_path / "state", _settings())
    _, again = _run(tmp_path / "state", _settings(), kill_at=0)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_it_learns_and_publishes_the_average(tmp_path: Path) -> None:
    curve, averaged = _run(tmp_path / "averaged", _settings(ema_decay=0.9))
    _, last = _run(tmp_path / "last", _settings(ema_decay=0.0))
    assert curve[-1].loss < 0.5 * curve[0].loss
    assert not torch.equal(averaged["0.weight"], last["0.weight"])


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "state", _settings())
    with pytest.raises(InputError, match="learning_rate"):
        _run(tmp_path / "state", _settings(learning_rate=2e-2))


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved_or_published(tmp_path: Path) -> None:
    network, published = nn.Linear(1, 1), []

    def loss_at(step: int) -> Tensor:
        return network(torch.full((1, 1), torch.inf if step == 7 else 1.0)).sum()

    with pytest.raises(FloatingPointError, match="step 7"):
        fit(network, loss_at, _settings(publish_every_s=1e-9), tmp_path / "state", published.append, title="line")
    assert len(published) == 1, "after steps 0 to 4, and not after 5 to 9"
    assert averaged_weights(tmp_path / "state")["weight"].isfinite().all()


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    settings = _settings(steps=100, warmup_steps=10, decay_share=0.4, learning_rate=1.0)
    rates = [learning_rate_at(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert rates[99] == pytest.approx(1 / 40)
