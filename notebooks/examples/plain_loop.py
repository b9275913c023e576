"""One training loop for every method: `python plain_loop.py [method]`, for example sam, msam, looksam, vsam."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import optimizers


def train(method: str = "sam", epochs: int = 5) -> float:
    """Train a small network on digits; return its test accuracy."""
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]

    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    optimizer = optimizers.create(method, base)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    for _ in range(epochs):
        for batch in torch.randperm(len(train_x)).split(50):
            # any function that zeroes, computes, backpropagates and returns the loss will do, too
            optimizer.step(optimizers.BatchClosure(model, nn.functional.cross_entropy, train_x[batch], train_y[batch]))
        scheduler.step()

    optimizer.eval()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).float().mean())
    print(f"{method}: {accuracy:.1%} test accuracy, {optimizer.gradient_evaluations} gradients")
    return accuracy


if __name__ == "__main__":
    train(*sys.argv[1:2])
