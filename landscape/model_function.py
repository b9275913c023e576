r"""A model and its loss as a function of named parameters, evaluated in a stated mode and leaving the model as it
was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from landscape.batches import Batch, arguments
from landscape.determinism import refuse_random_modules
from optimizers.batch_norm import frozen_batch_norm

Mode = Literal["eval", "unchanged", "batch"]
LossFunction = Callable[[Any, Any], Tensor]


class ModelFunction:
    """ℓ_b(parameters) for `model` and `loss_fn`; `mode` and `autocast` as `Objective` explains them."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFunction, *, mode: Mode, autocast: torch.dtype | None, device: torch.device
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f'expected mode="eval", "unchanged" or "batch", got {mode!r}')
        self.model, self.loss_fn, self.mode, self.autocast = model, loss_fn, mode, autocast
        self._device = device
        self.deterministic = False  # until shown: by a test that is made once for all objectives over this model
        if mode == "unchanged":
            refuse_random_modules(model)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The model in its mode, with kernels that have second derivatives; everything is put back after."""
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            if self.mode != "unchanged":
                self.model.eval()
            with contextlib.ExitStack() as stack:
                if self.mode == "batch":
                    stack.enter_context(frozen_batch_norm(self.model))
                    for layer in batch_norms(self.model):
                        layer.training = True
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                if any(isinstance(module, nn.RNNBase) for module, _ in modes):
                    stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its RNNs are differentiable once
                if self.autocast is not None:
                    stack.enter_context(torch.autocast(self._device.type, self.autocast))
                yield
        finally:
            for module, training in modes:
                module.training = training

    def output(self, parameters: Mapping[str, Tensor], batch: Batch) -> Any:
        """The model's output on a batch with `parameters` in place of its own."""
        args, kwargs = arguments(batch.inputs)
        return functional_call(self.model, dict(parameters), args, kwargs)

    def batch_loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """ℓ_b at `parameters`, a scalar."""
        loss = self.loss_fn(self.output(parameters, batch), batch.targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f'expected loss_fn to return a scalar tensor, got {got}; use reduction="mean"')
        return loss

    def example_losses(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The loss of each example of a batch by itself, (N_b,): rows must be independent of each other."""

        def one(inputs: Any, targets: Any) -> Tensor:
            single = [pytree.tree_map(lambda tensor: tensor[None], part) for part in (inputs, targets)]
            return self.batch_loss(parameters, Batch(single[0], single[1], 1))

        try:
            return torch.func.vmap(one)(batch.inputs, batch.targets)
        except RuntimeError:  # an operation that vmap cannot vectorise
            rows = [pytree.tree_map(lambda t, i=i: t[i], (batch.inputs, batch.targets)) for i in range(batch.examples)]
            return torch.stack([one(*row) for row in rows])

    @property
    def loss_name(self) -> str:
        """The loss in words."""
        loss = self.loss_fn
        return repr(loss) if isinstance(loss, nn.Module) else getattr(loss, "__name__", repr(loss))

    @property
    def batch_norm(self) -> str:
        """Which statistics BatchNorm layers use."""
        layers = batch_norms(self.model)
        if not layers:
            return "none in the model"
        if self.mode == "batch":
            return "batch statistics"
        tracked = all(layer.track_running_stats for layer in layers)
        batch_wise = not tracked or (self.mode == "unchanged" and any(layer.training for layer in layers))
        return "batch statistics" if batch_wise else "running statistics"


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a model, of every kind."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or torch.compile: compiled code has no second derivatives."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    return model
