"""Which method makes the most of a given number of gradients? Noisy digits, equal gradient evaluations, many seeds.

    python tests/benchmarks/optimizer_comparison.py [--seeds 10] [--gradients 2000]

Every method gets the same number of gradient evaluations: cheap steps buy more of them, and the learning rate follows a
cosine of the gradients spent. 40 % of the training labels are replaced by another class. ρ is chosen for each method from
one grid on a validation set, with seeds of its own (the mean over three); the table is of the test set, with the other seeds.
Writes results/optimizer_comparison.{json,md} beside this script.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import optimizers

RADII = (0.1, 0.2, 0.4, 0.8)
BATCH = 64
METHODS: dict[str, Callable[[torch.optim.Optimizer, float, int], optimizers.SharpnessAware]] = {
    "SGD": lambda base, rho, steps: optimizers.Plain(base),
    "SAM": lambda base, rho, steps: optimizers.SAM(base, rho=rho),
    "MSAM (ρ × 5)": lambda base, rho, steps: optimizers.MSAM(base, rho=5 * rho),
    "SS-SAM (p = 0.3)": lambda base, rho, steps: optimizers.SSSAM(base, rho=rho, p=0.3),
    "LookSAM (k = 5, α = 0.7)": lambda base, rho, steps: optimizers.LookSAM(base, rho=rho),
    "AE-SAM": lambda base, rho, steps: optimizers.AESAM(base, rho=rho, total_steps=steps * 2 // 3),
    "vSAM": lambda base, rho, steps: optimizers.VSAM(base, rho=rho, warmup=48),
    "Budget(1.3)": lambda base, rho, steps: optimizers.BudgetSAM(base, rho=rho, per_step=1.3),
    "Budget(1.3) × LookSAM's reuse": lambda base, rho, steps: optimizers.SharpnessAware(
        base, rho=rho, policy=optimizers.Budget(1.3), reuse=optimizers.Orthogonal()
    ),
    "Budget(1.5)": lambda base, rho, steps: optimizers.BudgetSAM(base, rho=rho, per_step=1.5),
}


def data(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """1000 training examples, 40 % of them mislabelled, 300 for validation, 497 for the test."""
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # one split for all seeds
    x, y = x[order], y[order]
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.rand(1000, generator=generator) < 0.4
    wrong = (y[:1000] + torch.randint(1, 10, (1000,), generator=generator)) % 10
    return {
        "train": (x[:1000], torch.where(noisy, wrong, y[:1000])),
        "validation": (x[1000:1300], y[1000:1300]),
        "test": (x[1300:], y[1300:]),
    }


def train(method: str, rho: float, seed: int, gradients: int) -> dict[str, float]:
    """Accuracies in percent and gradients per step of one training."""
    sets = data(seed)
    x, y = sets["train"]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = METHODS[method](base, rho, gradients)
    generator = torch.Generator().manual_seed(seed)
    order, steps = torch.empty(0, dtype=torch.long), 0
    while optimizer.gradient_evaluations < gradients:
        if len(order) < BATCH:
            order = torch.randperm(len(x), generator=generator)
        batch, order = order[:BATCH], order[BATCH:]
        base.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * optimizer.gradient_evaluations / gradients))
        optimizer.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, x[batch], y[batch]))
        steps += 1
    with torch.no_grad():
        accuracies = {
            name: 100 * float((model(inputs).argmax(1) == labels).float().mean())
            for name, (inputs, labels) in sets.items()
        }
    return {**accuracies, "gradients per step": optimizer.gradient_evaluations / steps}


def compare(seeds: int, gradients: int, tuning_seeds: int = 3) -> dict[str, dict[str, float]]:
    """One row a method: the chosen ρ, and mean and standard error over the seeds."""
    rows = {}
    for method in METHODS:
        radii = (0.0,) if method == "SGD" else RADII
        scores = {
            rho: statistics.mean(train(method, rho, 1000 + s, gradients)["validation"] for s in range(tuning_seeds))
            for rho in radii
        }
        rho = max(scores, key=scores.__getitem__)
        runs = [train(method, rho, seed, gradients) for seed in range(seeds)]
        test = [run["test"] for run in runs]
        rows[method] = {
            "rho": rho,
            "test accuracy": statistics.mean(test),
            "standard error": statistics.stdev(test) / math.sqrt(seeds),
            "worst seed": min(test),
            "train accuracy": statistics.mean(run["train"] for run in runs),
            "gradients per step": statistics.mean(run["gradients per step"] for run in runs),
        }
        print(method, {key: round(value, 3) for key, value in rows[method].items()}, flush=True)
    return rows


def markdown(rows: dict[str, dict[str, float]], seeds: int, gradients: int) -> str:
    """The table, best first."""
    lines = [
        f"Noisy digits (40 % of labels wrong), {gradients} gradient evaluations for every method, {seeds} seeds, "
        "mean ± standard error, %:",
        "",
        "| method | ρ (tuned) | gradients a step | test accuracy | worst seed | accuracy on the noisy training labels |",
        "|---|---|---|---|---|---|",
    ]
    for method, row in sorted(rows.items(), key=lambda item: -item[1]["test accuracy"]):
        lines.append(
            f"| {method} | {row['rho']:g} | {row['gradients per step']:.2f} "
            f"| {row['test accuracy']:.2f} ± {row['standard error']:.2f} | {row['worst seed']:.1f} | {row['train accuracy']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--gradients", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = compare(arguments.seeds, arguments.gradients)
    results = Path(__file__).parent / "results"
    about = {"seeds": arguments.seeds, "gradients": arguments.gradients, "torch": torch.__version__, "rows": rows}
    (results / "optimizer_comparison.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    (results / "optimizer_comparison.md").write_text(markdown(rows, arguments.seeds, arguments.gradients))


if __name__ == "__main__":
    main()
