"""Lightning's `accumulate_grad_batches` with every method: the micro-batches of a step are kept, to be evaluated again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class LightningSteps:
    """Mix into a `LightningModule` whose trainer has `accumulate_grad_batches`: `class Mine(LightningSteps, LightningModule)`.

    Lightning evaluates all micro-batches but the last before the step begins, at w. Those are the first pass; the others
    call `training_step` again, at w + ε. Lightning's own clipping and `on_before_optimizer_step` come once a step, on the
    gradient that the base optimizer gets. Methods of one gradient take two here: give them `trainer.fit` with larger
    batches where these fit.

    Memory: the micro-batches of a step. Raises `RuntimeError` in fp16 ("16-mixed"), whose scaler allows one pass.
    """

    trainer: Any
    training_step: Any

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep the micro-batch. Whoever overrides this calls it, too."""
        if self.trainer.accumulate_grad_batches > 1:
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.__dict__["_micro_batches"] = []
            self.__dict__["_micro_batches"].append((batch, batch_idx))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The step, with the closure of all its micro-batches."""
        if self.trainer.accumulate_grad_batches == 1:
            optimizer.step(closure=optimizer_closure)
            return
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise RuntimeError("expected precision 32 or bf16, got fp16, whose scaler allows one pass; use bf16-mixed")
        parts = self.__dict__.pop("_micro_batches", [])
        if not parts or parts[-1][1] != batch_idx:
            raise RuntimeError(
                "LightningSteps has not seen the micro-batches: call super().on_train_batch_start(batch, batch_idx) in "
                "on_train_batch_start, and name LightningSteps before LightningModule among the bases"
            )
        takes_index = "batch_idx" in inspect.signature(self.training_step).parameters

        def again() -> Tensor:
            losses = []
            optimizer.zero_grad()
            for batch, index in parts:
                found = self.trainer.strategy.training_step(batch, *([index] if takes_index else []))
                loss = (found["loss"] if isinstance(found, Mapping) else found) / self.trainer.accumulate_grad_batches
                self.trainer.strategy.backward(loss, None)
                losses.append(loss.detach())
            return sum(losses[1:], start=losses[0])

        optimizer.step(closure=optimizer_closure, again=again)
