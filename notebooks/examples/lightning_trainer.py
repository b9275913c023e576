"""SAM under Lightning's automatic optimization: nothing to do but to return it from `configure_optimizers`.

Lightning hands the closure to `optimizer.step`. Its clipping and `on_before_optimizer_step` come once a step, on what the
base optimizer gets. With `accumulate_grad_batches` the closure holds the last micro-batch only, and the optimizer refuses
it; `class Digits(optimizers.LightningSteps, lightning.LightningModule)` lets every method take all of them.
"""

import sys

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import optimizers


class Digits(lightning.LightningModule):
    """A small network with batch normalisation, trained by any method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """The loss; Lightning does the rest."""
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> dict:
        """The optimizer and its scheduler, as any other."""
        base = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        optimizer = optimizers.create(self.method, base)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)}


def train(method: str = "sam", directory: str = ".", epochs: int = 3, resume: str | None = None) -> lightning.Trainer:
    """Train, write a checkpoint, and report the test accuracy."""
    lightning.seed_everything(0, verbose=False)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=50)
    module = Digits(method)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=directory,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=resume, weights_only=False if resume else None)
    optimizer = trainer.optimizers[0]
    optimizer.eval()
    module.eval()
    with torch.no_grad():
        accuracy = float((module.net(x[1400:]).argmax(1) == y[1400:]).float().mean())
    print(f"{method}: {accuracy:.1%} test accuracy, {optimizer.gradient_evaluations} gradients")
    return trainer


if __name__ == "__main__":
    train(*sys.argv[1:3])
