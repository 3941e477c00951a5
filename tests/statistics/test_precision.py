import pytest
import torch

from ppd.statistics.precision import precision


def test_precision_tells_near_from_far() -> None:
    torch.manual_seed(0)
    real = torch.randn(200, 4)
    assert precision(real + 0.01, real) > 0.95
    assert precision(real + 100, real) == 0
    assert precision(torch.cat([real, real + 100]), real) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="neighbour"):
        precision(real, real[:3])
