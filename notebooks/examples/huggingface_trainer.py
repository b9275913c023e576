"""MSAM under Hugging Face's `Trainer` and accelerate: closure-free, w + ε loaded while training, w while evaluating.

`Trainer` calls `optimizer.train()` before each step and `optimizer.eval()` before each evaluation, the convention of
schedule-free optimizers. It has no closures, so only methods of one gradient work as they are (`msam`, `s2sam`, ...), and
`class Mine(optimizers.HuggingFaceSteps, Trainer)` brings those of two; gradient accumulation and clipping are its own. Evaluate at the end of training, or call `optimizer.eval()`, before the model is
saved for use; a checkpoint to resume from may be of either side.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainingArguments

import optimizers


class Digits(nn.Module):
    """A small network that returns its loss, as `Trainer` expects."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits."""
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def train(method: str = "msam", directory: str = "huggingface_run", epochs: int = 3, resume: bool = False) -> Trainer:
    """Train with evaluations in between, and report the test accuracy."""
    digits = load_digits()
    examples = [
        {"x": torch.tensor(x, dtype=torch.float32) / 16, "labels": int(y)}
        for x, y in zip(digits.data, digits.target, strict=True)
    ]
    torch.manual_seed(0)
    model = Digits()
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = optimizers.create(method, base, **({"rho": 0.5} if method == "msam" else {}))
    arguments = TrainingArguments(
        output_dir=directory, num_train_epochs=epochs, per_device_train_batch_size=25, gradient_accumulation_steps=2,
        max_grad_norm=5.0, eval_strategy="epoch", save_strategy="epoch", report_to="none", use_cpu=True,
        disable_tqdm=True, seed=0, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples[:1400], eval_dataset=examples[1400:],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    print(
        f"{method}: {trainer.evaluate()['eval_accuracy']:.1%} test accuracy, {optimizer.gradient_evaluations} gradients"
    )
    return trainer


if __name__ == "__main__":
    train(*sys.argv[1:3])
