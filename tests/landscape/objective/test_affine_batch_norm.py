"""BatchNorm by its affine form is BatchNorm."""

import pytest
import torch
from torch import nn

from landscape.objective.affine_batch_norm import AffineBatchNorm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_same_value_and_the_same_statistics(affine: bool, tracked: bool, training: bool) -> None:
    layer = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked).double()
    x = 5 + 0.1 * torch.randn(8, 3, 4, 4, dtype=torch.float64)
    layer(x)
    layer.train(training)
    expected = layer(x)
    statistics = [buffer.clone() for buffer in layer.buffers()]
    with AffineBatchNorm():
        found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    if not training:
        assert all(torch.equal(buffer, before) for buffer, before in zip(layer.buffers(), statistics, strict=True))


def test_large_means_lose_no_digits() -> None:
    layer = nn.BatchNorm1d(2).eval()
    layer.running_mean.fill_(1e3)
    layer.running_var.fill_(1e-2)
    x = 1e3 + 0.1 * torch.randn(50, 2)
    exact = (x.double() - 1e3) / (1e-2 + 1e-5) ** 0.5
    with AffineBatchNorm():
        torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-6)
