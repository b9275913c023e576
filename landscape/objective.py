r"""One function of one vector: the mean loss of a model over stated data.

    L(θ) = Σ_b N_b ℓ_b(θ) / Σ_b N_b        ℓ_b the loss of batch b, a mean over its N_b examples

    objective = Objective(model, nn.CrossEntropyLoss(), batches)
    objective()                            # L at the model's own parameters
    objective(theta)                       # (n,) → (),  (k, n) → (k,)
    objective.gradient()                   # (n,)
    objective.hessian() @ v                # (n,) or (n, k)

The weights N_b make uneven batches exact. The model runs in eval mode (BatchNorm with its running statistics, dropout
off) unless told otherwise, and comes out as it went in: mode, gradients, buffers, parameters and random state.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.batches import Batch, Batches, Count, arguments
from landscape.operators import LinearOperator
from landscape.parameters import ParameterSpace

Mode = Literal["eval", "unchanged"]


class Objective:
    """The mean loss of `model` over the examples of `batches`, as a function of the flat parameter vector θ.

    `loss_fn(model(inputs), targets)` returns the mean loss of a batch, a scalar, with no weight decay in it. `batches`
    is an iterable of `(inputs, targets)` that can be walked again, in the same order (`landscape.batches` says which
    forms a batch may take). An example is a row of the targets; where the loss averages over something else (tokens),
    `count(inputs, targets)` says how many a batch has.

    With a `device` or `dtype` other than the model's the objective works on a copy of the model taken now; otherwise on
    the model itself, at its parameters of the moment. `mode="unchanged"` leaves each module in the mode the model is in
    instead of eval mode; modules that then make the loss random or change their own state are refused.

    Raises `TypeError` for one-shot iterators, `ValueError` for empty data, a loss that is no scalar, θ of the wrong
    shape.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        batches: Iterable[Any],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        mode: Mode = "eval",
        count: Count | None = None,
    ) -> None:
        if mode not in ("eval", "unchanged"):
            raise ValueError(f'expected mode="eval" or "unchanged", got {mode!r}')
        space = ParameterSpace.of(model)
        here = next(parameter.device for parameter in model.parameters() if parameter.requires_grad)
        self.device = here if device is None else torch.empty(0, device=device).device
        if self.device != here or (dtype is not None and set(space.dtypes) != {dtype}):
            model = copy.deepcopy(model).to(device=self.device, dtype=dtype)
            space = ParameterSpace.of(model)
        self.model, self.loss_fn, self.space = model, loss_fn, space
        self._mode, self._count, self._dtype = mode, count, dtype
        self.batches = Batches(batches, count=count, device=self.device, dtype=dtype)
        self._parent: Objective | None = None
        self._examples_forward = self._examples_gradient = self._examples_hessian = 0
        if mode == "unchanged":
            _refuse_random_modules(model)

    def on(self, batches: Iterable[Any]) -> Objective:
        """The same model, loss and options over other data; its work counts in this objective's counters too."""
        other = copy.copy(self)
        other.batches = Batches(batches, count=self._count, device=self.device, dtype=self._dtype)
        other._parent = self
        other._examples_forward = other._examples_gradient = other._examples_hessian = 0
        return other

    # what it is over

    @property
    def size(self) -> int:
        """n, the number of coordinates."""
        return self.space.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of θ."""
        return self.space.dtype

    @property
    def examples(self) -> int:
        """Examples in all batches together."""
        return sum(self.batches.counts)

    @property
    def theta(self) -> Tensor:
        """(n,) a copy of the model's current parameters."""
        parameters = dict(self.model.named_parameters())
        return self.space.flatten(parameters[name].detach() for name in self.space.names)

    @property
    def description(self) -> dict[str, str | int | float | bool]:
        """What a number from this objective is a number of, for file attributes."""
        return {
            "loss": _name(self.loss_fn),
            "model": type(self.model).__name__,
            "mode": self._mode,
            "batch_norm": self._batch_norm(),
            "weight_decay": "not included",
            "examples": self.examples,
            "batches": len(self.batches),
            "parameters": self.size,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    # what it costs: in passes over all the data, of this objective and those made from it by `on`

    @property
    def evaluations(self) -> float:
        """Forward passes made for loss values."""
        return self._examples_forward / self.examples

    @property
    def gradient_evaluations(self) -> float:
        """Gradients computed, those inside curvature products not included."""
        return self._examples_gradient / self.examples

    @property
    def hessian_products(self) -> float:
        """Vectors multiplied by a curvature matrix (Hessian, Gauss–Newton or Fisher) of all the data."""
        return self._examples_hessian / self.examples

    def record(self, *, forward: int = 0, gradient: int = 0, hessian: int = 0) -> None:
        """Add work, in examples, to the counters here and in the objectives this one was made from."""
        self._examples_forward += forward
        self._examples_gradient += gradient
        self._examples_hessian += hessian
        if self._parent is not None:
            self._parent.record(forward=forward, gradient=gradient, hessian=hessian)

    # values, gradients, curvature

    def __call__(self, theta: Tensor | None = None) -> Tensor:
        """L(θ): a scalar for θ of shape (n,), (k,) for (k, n) with one walk over the data. Cost: k forward passes.

        At the model's own parameters a non-finite loss raises `FloatingPointError`; at a given θ it is returned as it
        is, since a surface may well be asked for where the loss overflows.
        """
        points = self._point(theta, rows=True)
        totals = torch.zeros(points.shape[0], dtype=_accumulator(self.device), device=self.device)
        with torch.no_grad(), self.running():
            unflattened = [self.space.unflatten(point) for point in points]
            for batch in self.batches.walk():
                for row, parameters in enumerate(unflattened):
                    totals[row] += batch.examples * self.batch_loss(parameters, batch)
                self.record(forward=batch.examples * len(unflattened))
        values = (totals / self.examples).to(torch.promote_types(self.dtype, torch.float32))
        if theta is None:
            _require_finite(values, self.loss_fn)
        return values if theta is not None and theta.ndim == 2 else values[0]

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L(θ), shape (n,); zeros for parameters the loss does not use. Cost: one gradient."""
        point = self._point(theta)[0]
        total = torch.zeros_like(point)
        with self.running():
            for batch in self.batches.walk():
                parameters = self.leaves(point)
                with torch.enable_grad():
                    loss = self.batch_loss(parameters, batch)
                blocks = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
                total += (batch.examples / self.examples) * self.space.flatten(blocks)
                self.record(gradient=batch.examples)
        if theta is None:
            _require_finite(total, self.loss_fn)
        return total

    def hessian(self, theta: Tensor | None = None) -> LinearOperator:
        """H = ∇²L(θ) as a symmetric operator (n, n). Cost of `H @ v`: one curvature product."""
        return RecomputedHessian(self, self._point(theta)[0])

    # the pieces curvature products are made of

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The model in the objective's mode, attention by its twice differentiable kernel; the mode is restored
        after.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            if self._mode == "eval":
                self.model.eval()
            with sdpa_kernel(SDPBackend.MATH):
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

    def leaves(self, point: Tensor) -> dict[str, Tensor]:
        """Parameters at θ = `point` as leaves to differentiate with respect to."""
        return {name: block.detach().requires_grad_() for name, block in self.space.unflatten(point).items()}

    def _point(self, theta: Tensor | None, *, rows: bool = False) -> Tensor:
        if theta is None:
            return self.theta[None]
        if theta.shape[-1:] != (self.size,) or theta.ndim > (2 if rows else 1):
            raise ValueError(
                f"expected theta of shape ({self.size},){f' or (k, {self.size})' if rows else ''}, "
                f"got {tuple(theta.shape)}; "
                "was it flattened from another model?"
            )
        return theta.detach().to(device=self.device, dtype=self.dtype).reshape(-1, self.size)

    def _batch_norm(self) -> str:
        layers = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not layers:
            return "none in the model"
        tracked = all(layer.track_running_stats for layer in layers)
        batch_wise = not tracked or (self._mode == "unchanged" and any(layer.training for layer in layers))
        return "batch statistics" if batch_wise else "running statistics"


class RecomputedHessian(LinearOperator):
    """H @ v by two backward passes over a gradient graph that is built anew for each product and batch."""

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        super().__init__(objective.size, objective.dtype, objective.device)
        self._objective, self._theta = objective, theta

    def _multiply(self, block: Tensor) -> Tensor:
        objective = self._objective
        product = torch.zeros_like(block)
        vectors = [list(objective.space.unflatten(column).values()) for column in block.T]
        with objective.running():
            for batch in objective.batches.walk():
                parameters = objective.leaves(self._theta)
                leaves = list(parameters.values())
                with torch.enable_grad():
                    loss = objective.batch_loss(parameters, batch)
                    gradient = torch.autograd.grad(
                        loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                used = [i for i, g in enumerate(gradient) if g.requires_grad]
                for column, vector in enumerate(vectors):
                    if not used:
                        continue
                    second = torch.autograd.grad(
                        [gradient[i] for i in used],
                        leaves,
                        [vector[i] for i in used],
                        retain_graph=column + 1 < len(vectors),
                        allow_unused=True,
                        materialize_grads=True,
                    )
                    product[:, column] += (batch.examples / objective.examples) * objective.space.flatten(second)
                objective.record(hessian=batch.examples * len(vectors))
        return product


def _accumulator(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def _require_finite(values: Tensor, loss_fn: Callable[..., Any]) -> None:
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError(
            f"the loss {_name(loss_fn)} or its gradient is not finite at the model's parameters; "
            "has training diverged, or does the data hold NaN or Inf?"
        )


def _name(loss_fn: Callable[..., Any]) -> str:
    return repr(loss_fn) if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__name__", repr(loss_fn))


def _refuse_random_modules(model: nn.Module) -> None:
    """Dropout and BatchNorm in training mode: L(θ) would be random, or each evaluation would change the running
    statistics.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            raise ValueError(
                f"{where} is in training mode: its statistics depend on the batch and every evaluation changes them; "
                'use mode="eval" or put the layer in eval mode'
            )
        rate = getattr(module, "dropout", getattr(module, "p", 0.0))
        kinds = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention, nn.RReLU)
        if isinstance(module, nn.RReLU) or (isinstance(module, kinds) and isinstance(rate, float) and rate > 0):
            raise ValueError(
                f'{where} is in training mode and makes the loss random; use mode="eval" or put the layer in eval mode'
            )
