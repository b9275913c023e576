r"""A model and its loss as a function of named parameters, evaluated in a stated mode and leaving the model as it
was.

Everything that is done to a batch is done with the parameters in the model's place: its forward pass, the backward
passes too (activations that `torch.utils.checkpoint` dropped are computed again there, from the parameters that the
model holds then), and every product with a graph that is kept. Buffers that a forward pass writes (observers, counters)
are handed to it as copies.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from landscape.objective.affine_batch_norm import AffineBatchNorm
from landscape.objective.batches import Batch
from landscape.objective.loss_average import torch_loss
from landscape.objective.model_state import state_kept
from landscape.objective.random_modules import refuse_random_modules
from landscape.objective.repeated_walks import generators_kept
from landscape.running_statistics import tracked
from optimizers.core.passes import frozen_batch_norm
from optimizers.ground.rows import arguments

Mode = Literal["eval", "unchanged", "batch"]
LossFunction = Callable[[Any, Any], Tensor]
RECOMPUTES = "this model computes activations again in its backward pass"


class ModelFunction:
    """ℓ_b(parameters) for `model` and `loss_fn`; `mode` and `autocast` as `Objective` explains them."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFunction, *, mode: Mode, autocast: torch.dtype | None, device: torch.device
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f'expected mode="eval", "unchanged" or "batch", got {mode!r}')
        self.model, self.loss_fn, self.mode, self.autocast = model, loss_fn, mode, autocast
        self.torch_loss = torch_loss(loss_fn)
        self._device = device
        self.gathered_over = 0  # examples that BatchNorm's statistics were gathered over by `Objective.reestimated`
        self._frame = _Frame(model)
        # Found out once for all objectives over this model:
        self.deterministic = False
        self.averages = False  # the loss is a mean over what the batches are weighed by
        self.written: tuple[str, ...] | None = None  # buffers that a forward pass writes
        self.recomputes: bool | None = None  # whether backward passes call the model again
        if mode == "unchanged":
            refuse_random_modules(model)

    def of(self, model: nn.Module, *, gathered_over: int) -> ModelFunction:
        """The same function of a copy of the model."""
        other = copy.copy(self)
        other.model, other._frame, other.gathered_over = model, _Frame(model), gathered_over
        return other

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The model in its mode, with kernels that have second derivatives; everything is put back after."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(generators_kept(self._device))
            stack.enter_context(state_kept(self.model))
            if self.mode != "unchanged":
                self.model.eval()
            if self.mode == "batch":
                stack.enter_context(frozen_batch_norm(self.model))
                for layer in (*batch_norms(self.model), *tracked(self.model).values()):
                    layer.training = True
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if any(isinstance(module, nn.RNNBase) for module in self.model.modules()):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # its RNNs are differentiable once
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self._device.type, self.autocast))
            yield

    @contextlib.contextmanager
    def differentiating_twice(self) -> Iterator[None]:
        """`running`, with BatchNorm in the form whose second derivatives are cheap.

        Not where backward passes call the model again: torch runs those outside of any such mode.
        """
        with self.running(), contextlib.nullcontext() if self.recomputes else AffineBatchNorm():
            yield

    def at(self, parameters: Mapping[str, Tensor], compute: Callable[[], Any]) -> Any:
        """`compute()` with `parameters` in place of the model's own, and copies of the buffers it writes."""
        held = {f"model.{name}": tensor for name, tensor in parameters.items()}
        for name in self.written or ():
            held[f"model.{name}"] = self.model.get_buffer(name).clone()
        return functional_call(self._frame, held, (compute,))

    def replayed(self, parameters: Mapping[str, Tensor], product: Any) -> Any:
        """`product`, or where its graph calls the model again the same with the model as it was when it was built."""
        return _Replayed(self, parameters, product) if self.recomputes else product

    def output(self, parameters: Mapping[str, Tensor], batch: Batch) -> Any:
        """The model's output on a batch with `parameters` in place of its own."""
        return self.at(parameters, lambda: self._forward(batch))

    def batch_loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """ℓ_b at `parameters`, a scalar."""
        return self.at(parameters, lambda: self.loss_here(batch))

    def batch_gradient(
        self, leaves: Mapping[str, Tensor], batch: Batch, *, create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        """∇ℓ_b at `leaves`, a block each; zeros for those the loss does not use."""

        def gradient() -> tuple[Tensor, ...]:
            with torch.enable_grad():
                loss = self.loss_here(batch)
            return torch.autograd.grad(
                loss, list(leaves.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
            )

        return self.at(leaves, gradient)

    def example_losses(self, parameters: Mapping[str, Tensor], batch: Batch, rows: Sequence[int]) -> Tensor:
        """The loss of each of the `rows` of a batch by itself, (rows,): they must be independent of each other."""

        def one(inputs: Any, targets: Any) -> Tensor:
            single = [pytree.tree_map(lambda tensor: tensor[None], part) for part in (inputs, targets)]
            return self.batch_loss(parameters, Batch(single[0], single[1], 1))

        parts = (batch.inputs, batch.targets)
        if not self.recomputes:
            chosen = parts
            if len(rows) < batch.examples:
                chosen = pytree.tree_map(lambda tensor: tensor[torch.as_tensor(rows, device=tensor.device)], parts)
            with contextlib.suppress(RuntimeError):  # an operation that vmap cannot vectorise
                losses: Tensor = torch.func.vmap(one)(*chosen)
                if not self.recomputes:
                    return losses
        return torch.stack([one(*pytree.tree_map(lambda t, i=i: t[i], parts)) for i in rows])

    def loss_here(self, batch: Batch) -> Tensor:
        """ℓ_b at the parameters that are in place."""
        if isinstance(self.loss_fn, ModelLoss):
            loss = self._guarded(lambda: self.loss_fn.function(self.model, batch.inputs))
        else:
            loss = self.loss_fn(self._forward(batch), batch.targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f'expected loss_fn to return a scalar tensor, got {got}; use reduction="mean"')
        return loss

    def _forward(self, batch: Batch) -> Any:
        if isinstance(self.loss_fn, ModelLoss):
            raise ValueError(
                "a loss(model, batch) does not say what the model's outputs are, so it has no Gauss–Newton or Fisher "
                "matrix; pass loss_fn(output, targets), or ask for the Hessian"
            )
        args, kwargs = arguments(batch.inputs)
        return self._guarded(lambda: self.model(*args, **kwargs))

    def _guarded(self, forward: Callable[[], Any]) -> Any:
        """A forward pass that notices when its backward pass will want to call the model again."""
        if not torch.is_grad_enabled():
            return forward()
        if not self.recomputes:
            try:
                with disable_saved_tensors_hooks(RECOMPUTES), _refusing_reentrant(self.recomputes is None):
                    output = forward()
                self.recomputes = False
                return output
            except RuntimeError as failure:
                if RECOMPUTES not in str(failure):
                    raise
            self.recomputes = True
        try:
            return forward()
        except RuntimeError as failure:
            if "support saved tensor hooks" not in str(failure):
                raise
            raise RuntimeError(
                f"{RECOMPUTES} (torch.utils.checkpoint), which torch.func cannot follow; ask for "
                'way="retained" or "recomputed", or switch checkpointing off'
            ) from failure

    @property
    def loss_name(self) -> str:
        """The loss in words."""
        loss = self.loss_fn.function if isinstance(self.loss_fn, ModelLoss) else self.loss_fn
        return repr(loss) if isinstance(loss, nn.Module) else getattr(loss, "__name__", repr(loss))

    @property
    def batch_norm(self) -> str:
        """Which statistics BatchNorm layers use."""
        batch_wise, kept = batch_norms(self.model), tracked(self.model)
        layers = [*batch_wise, *(layer for layer in kept.values() if layer not in batch_wise)]  # of instances
        if not layers:
            return "none in the model"
        if self.mode == "batch":
            return "batch statistics" if batch_wise else "statistics of each example"
        tracking = all(layer.track_running_stats for layer in batch_wise)
        if not tracking or (self.mode == "unchanged" and any(layer.training for layer in batch_wise)):
            return "batch statistics"
        return f"statistics gathered over {self.gathered_over} examples" if self.gathered_over else "running statistics"


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a model, of every kind."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


class ModelLoss:
    """`function(model, batch)`, the mean loss of a batch of any form, in place of `loss_fn(output, targets)`."""

    def __init__(self, function: Callable[[nn.Module, Any], Tensor]) -> None:
        self.function = function


class _Frame(nn.Module):
    """A model as part of a module whose forward pass is any function: `functional_call` then holds its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        """What `compute` returns."""
        return compute()


class _Replayed:
    """A product whose graph calls the model: with the parameters, the mode and the kernels of the forward pass."""

    def __init__(self, function: ModelFunction, parameters: Mapping[str, Tensor], product: Any) -> None:
        self._function, self._parameters, self.product = function, parameters, product

    def __call__(self, blocks: Sequence[Tensor]) -> Any:
        with self._function.running():
            return self._function.at(self._parameters, lambda: self.product(blocks))


@contextlib.contextmanager
def _refusing_reentrant(first: bool) -> Iterator[None]:
    """Refuse `checkpoint(use_reentrant=True)`: parameters inside it get no gradient where its inputs need none."""
    if not first:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="None of the inputs have requires_grad=True")
        try:
            yield
        except UserWarning as failure:
            raise ValueError(
                "the model calls torch.utils.checkpoint with use_reentrant=True, which loses the gradients of the "
                "parameters inside; pass use_reentrant=False (Hugging Face: gradient_checkpointing_kwargs)"
            ) from failure


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or torch.compile: compiled code has no second derivatives."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    return model
