"""The two test problems of the curvature benchmarks: an MLP on digits and a ResNet-20 in eval mode, 512 examples
each."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from landscape.objective.objective import Objective


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Identity() if stride == 1 and inside == outside else _Padded(outside - inside, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(self.shortcut(x) + y)


class _Padded(nn.Module):
    """He et al. (2016), option A: subsample and pad with zero channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        half = self.channels // 2
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.channels - half))


def resnet20() -> nn.Module:
    """269,722 parameters; He et al. (2016), section 4.2, n = 3, with shortcuts of option A."""
    blocks: list[nn.Module] = []
    inside = 16
    for width, first in ((16, 1), (32, 2), (64, 2)):
        for index in range(3):
            blocks.append(_Block(inside, width, first if index == 0 else 1))
            inside = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp() -> nn.Module:
    """26,122 parameters, tanh."""
    layers = [nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


def problem(name: str, *, examples: int, steps: int, device: str) -> Objective:
    """`mlp` or `resnet20` after `steps` of SGD on the digits (as 32 × 32 colour images for the ResNet)."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    model = {"mlp": mlp, "resnet20": resnet20}[name]().to(device)
    if name == "resnet20":
        x = nn.functional.interpolate(x.view(-1, 1, 8, 8), size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 if name == "mlp" else 0.02, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,)).to(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    model.eval()
    return Objective(model, nn.CrossEntropyLoss(), [(x[:examples], y[:examples])])
