"""What a step costs beside a step of torch's SGD: interleaved medians in one process, and beside installed peers.

    python tests/benchmarks/optimizer_speed.py [--rounds 200] [--model mlp resnet20] [--output results/...]

Every contender trains its own copy of one model on one batch; in every round each takes a step, in a shuffled order, so
that a slow moment of the machine falls on all. Reported is the median of the ratio to SGD within the round. Methods that
climb on some steps only are timed over a whole period of steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytorch_optimizer
import torch
from torch import nn

import optimizers

BOUNDS = {  # × torch SGD
    "mlp": {"MSAM": 1.20, "SAM": 2.08, "F-SAM": 2.30, "LookSAM(5)": 1.45, "Budget(1.3)": 1.55},
    "resnet20": {"MSAM": 1.02, "SAM": 2.04, "F-SAM": 2.06, "LookSAM(5)": 1.24, "Budget(1.3)": 1.34},
}
PERIOD = {"LookSAM(5)": 5, "Budget(1.3)": 10}


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Eight layers of 256 units, batch 64: bound by memory traffic, hard on an optimizer."""
    layers = [layer for _ in range(7) for layer in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(256, 256)), torch.randn(64, 256), torch.randint(0, 256, (64,))


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.pad))
        return (out + shortcut).relu()


def resnet20() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The CIFAR ResNet-20, batch 128: bound by arithmetic."""
    blocks, width = [], 16
    for stage, outputs in enumerate((16, 32, 64)):
        for block in range(3):
            blocks.append(Block(width, outputs, 2 if stage and not block else 1))
            width = outputs
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    return model, torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]] = {"mlp": mlp, "resnet20": resnet20}


class PlainRecursion:
    """SAM or MSAM over SGD as a reader of the paper would write them: a loop over tensors, no copy."""

    def __init__(self, parameters: list[nn.Parameter], method: str, rho: float) -> None:
        self.parameters, self.method, self.rho = parameters, method, rho
        self.momenta = [torch.zeros_like(p) for p in parameters]
        self.base = sgd(parameters)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor]) -> None:
        if self.method == "sam":
            with torch.enable_grad():
                closure()
            direction = [p.grad.clone() for p in self.parameters]
        else:
            direction = [-self.base.state[p].get("momentum_buffer", torch.zeros_like(p)) for p in self.parameters]
        length = torch.stack([d.norm() for d in direction]).norm() + 1e-12
        moves = [self.rho / length * d for d in direction]
        for parameter, move in zip(self.parameters, moves, strict=True):
            parameter.add_(move)
        with torch.enable_grad():
            closure()
        for parameter, move in zip(self.parameters, moves, strict=True):
            parameter.sub_(move)
        self.base.step()


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=True)


def ours(method: str, **hyperparameters: object) -> Callable[[list[nn.Parameter]], optimizers.SharpnessAware]:
    return lambda parameters: optimizers.create(method, sgd(parameters), **hyperparameters)


def peer(name: str) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "foreach": True}
    return lambda parameters: getattr(pytorch_optimizer, name)(parameters, base_optimizer=torch.optim.SGD, **options)


CONTENDERS: dict[str, Callable[[list[nn.Parameter]], object]] = {
    "SGD": sgd,
    "MSAM": ours("msam", rho=3.0),
    "SAM": ours("sam"),
    "F-SAM": ours("fsam"),
    "LookSAM(5)": ours("looksam"),
    "Budget(1.3)": ours("budget_sam"),
    "ASAM": ours("asam"),
    "GSAM": ours("gsam"),
    "plain recursion MSAM": lambda p: PlainRecursion(p, "msam", 3.0),
    "plain recursion SAM": lambda p: PlainRecursion(p, "sam", 0.05),
    "pytorch_optimizer SAM": peer("SAM"),
    "pytorch_optimizer F-SAM": peer("FriendlySAM"),
}


def measure(model_name: str, rounds: int, contenders: list[str]) -> dict[str, list[float]]:
    """Seconds per step of each contender, one number a round."""
    torch.manual_seed(0)
    model, x, y = MODELS[model_name]()
    steps: dict[str, Callable[[], object]] = {}
    for name in contenders:
        make = CONTENDERS[name]
        own = copy.deepcopy(model)
        optimizer = make(list(own.parameters()))
        first_backward = name.startswith("pytorch_optimizer")  # whose step(closure) expects gradients at w already

        def closure(own: nn.Module = own) -> torch.Tensor:
            for parameter in own.parameters():
                parameter.grad = None
            loss = nn.functional.cross_entropy(own(x), y)
            loss.backward()
            return loss

        def step(
            optimizer: object = optimizer, closure: Callable = closure, first_backward: bool = first_backward
        ) -> None:
            if first_backward:
                closure()
            optimizer.step(closure)  # type: ignore[attr-defined]

        steps[name] = step
    for step in steps.values():
        for _ in range(12 if model_name == "mlp" else 2):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            start = time.perf_counter()
            for _ in range(PERIOD.get(name, 1)):
                steps[name]()
            times[name].append((time.perf_counter() - start) / PERIOD.get(name, 1))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=["mlp"])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    results = {}
    for model in arguments.model:
        times = measure(model, arguments.rounds, arguments.contenders)
        sgd_times = times["SGD"]
        rows = {}
        print(f"\n{model}: {statistics.median(sgd_times) * 1e3:.2f} ms a step of SGD")
        for name, seconds in times.items():
            ratio = statistics.median(own / base for own, base in zip(seconds, sgd_times, strict=True))
            of_medians = statistics.median(seconds) / statistics.median(sgd_times)
            bound = BOUNDS[model].get(name)
            rows[name] = {"ratio": ratio, "ratio of medians": of_medians, "bound": bound}
            verdict = "" if bound is None else f"   bound {bound:.2f} {'met' if ratio <= bound else 'MISSED'}"
            print(f"{name:26s} {ratio:.3f}  (ratio of medians: {of_medians:.3f}){verdict}")
        results[model] = {
            "rounds": arguments.rounds,
            "milliseconds of SGD": statistics.median(sgd_times) * 1e3,
            "rows": rows,
        }
    if arguments.output:
        results["machine"] = {
            "torch": torch.__version__,
            "threads": 1,
            "processor": platform.processor() or platform.machine(),
        }
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
