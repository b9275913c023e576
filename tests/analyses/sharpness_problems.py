"""Objectives whose loss, gradient and Hessian are known in closed form, and small ones that are not quadratic."""

import torch
from torch import Tensor, nn

from landscape.objective.objective import Objective


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction.squeeze(-1) - target) ** 2).mean() / 2


def regression(sizes: tuple[int, ...] = (7, 5, 9), features: int = 4) -> tuple[Objective, Tensor, Tensor, Tensor]:
    """Least squares over uneven batches: (objective, gradient, Hessian XᵀX/N, θ), all in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), features, generator=generator, dtype=torch.float64)
    y = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    model = nn.Linear(features, 1, bias=False).double()
    objective = Objective(model, squared_error, list(zip(x.split(sizes), y.split(sizes), strict=True)))
    theta = objective.theta
    return objective, x.T @ (x @ theta - y) / len(x), x.T @ x / len(x), theta


def classifier(dtype: torch.dtype = torch.float64) -> Objective:
    """A smooth network with every kind of parameter: convolution, normalisation, linear layers, biases."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)
    ).to(dtype)
    x, y = torch.randn(26, 1, 4, 4, dtype=dtype), torch.randint(3, (26,))
    return Objective(model, nn.CrossEntropyLoss(), list(zip(x.split((10, 9, 7)), y.split((10, 9, 7)), strict=True)))
