"""Hugging Face's `Trainer` with methods of two gradients: the micro-batches of a step are kept, to be evaluated again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from optimizers.sharpness_aware import SharpnessAware


class HuggingFaceSteps:
    """Mix into a `Trainer`: `class Mine(HuggingFaceSteps, Trainer)`; `gradient_accumulation_steps` is its own as ever.

    The trainer calls `optimizer.step()` when it has gathered the gradient at w. That is the first pass; the others call
    `training_step` again for each micro-batch. `max_grad_norm` clips what the base optimizer gets, and not the gradient
    at w, by which policies decide. Methods of one gradient need none of this and are left alone.

    Memory: the micro-batches of a step. Raises `RuntimeError` in fp16, whose scaler allows one pass.
    """

    accelerator: Any
    args: Any
    optimizer: Any

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The trainer's own, and the micro-batch is kept."""
        method = self._method()
        if method is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self.__dict__.get("_repeats") is not method:
            self._begin(method, model)
        self._micro_batches.append((inputs, num_items_in_batch))
        return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]

    def _method(self) -> SharpnessAware | None:
        """The optimizer, if it takes a second gradient."""
        bare = self.optimizer
        while not isinstance(bare, SharpnessAware) and hasattr(bare, "optimizer"):
            bare = bare.optimizer
        return bare if isinstance(bare, SharpnessAware) and bare.direction.needs_gradient else None

    def _begin(self, method: SharpnessAware, model: Any) -> None:
        if self.accelerator.scaler is not None:
            raise RuntimeError("expected float32 or bf16, got fp16, whose scaler allows one pass; use bf16=True")
        self._repeats = method
        self._micro_batches: list[tuple[Any, Any]] = []
        evaluate = super().training_step  # type: ignore[misc]
        limit, self.args = self.args.max_grad_norm, copy.copy(self.args)
        self.args.max_grad_norm = 0.0  # the trainer would clip the gradient at w

        def whole(parts: list[tuple[Any, Any]]) -> Tensor:
            model.zero_grad()
            losses = [evaluate(model, *part) for part in parts]
            return torch.stack(losses).sum()

        def give_again(_: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            parts, self._micro_batches = self._micro_batches, []
            return args, {**options, "again": lambda: whole(parts)}

        def clip(*_: Any) -> None:  # torch takes what a hook returns for new arguments
            self.accelerator.clip_grad_norm_(model.parameters(), limit)

        method.register_step_pre_hook(give_again)
        if limit:
            method.base.register_step_pre_hook(clip)
