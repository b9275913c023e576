r"""One function of one vector: the mean loss of a model over stated data.

    L(θ) = Σ_b W_b ℓ_b(θ) / Σ_b W_b        ℓ_b the loss of batch b, W_b what it is a mean over

    objective = Objective(model, nn.CrossEntropyLoss(), batches)
    objective()                            # L at the model's own parameters
    objective(theta)                       # (n,) → (),  (k, n) → (k,)
    objective.gradient()                   # (n,)
    objective.hessian() @ v                # (n,) or (n, k)

The weights W_b make uneven batches exact: L is the loss of all the data in one batch (`landscape.objective.loss_average`). The
model runs in eval mode (BatchNorm with its running statistics, dropout off) unless told otherwise, and comes out as it
went in: mode, gradients, buffers, parameters and random state.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from landscape.objective.batches import Batch, Batches, Count
from landscape.objective.curvature_operator import CurvatureOperator
from landscape.objective.description import description_of
from landscape.objective.finite_differences import FiniteDifferenceHessian
from landscape.objective.gauss_newton import empirical_fisher_operator, fisher_operator, gauss_newton_operator
from landscape.objective.hessian_products import HessianWay, hessian_operator
from landscape.objective.likelihood import Likelihood
from landscape.objective.model_function import LossFunction, Mode, ModelFunction, ModelLoss, unwrapped
from landscape.objective.operators import LinearOperator
from landscape.objective.parameters import ParameterSpace, Selection
from landscape.objective.reestimation import function_at
from landscape.objective.sums_over_batches import (
    accumulator,
    checked_point,
    gradient_at,
    losses_at,
    point_of,
    require_finite,
)
from landscape.objective.work import Counted, Work


class Objective(Counted):
    """The mean loss of `model` over the examples of `batches`, as a function of the flat parameter vector θ.

    `loss_fn(model(inputs), targets)` returns the mean loss of a batch, a scalar, with no weight decay in it. `batches`
    is an iterable of `(inputs, targets)` that can be walked again in the same order (for the forms a batch may take see
    `landscape.objective.batches`). Torch's own losses say what they average over (class weights, ignored targets). For
    others it is the rows of the targets, or what `count(inputs, targets)` says: L is then the mean over those.
    `ModelLoss(function)` in place of a loss takes `function(model, batch)` and batches of any form.

    With a `device` or `dtype` other than the model's the objective works on a copy of the model taken now; otherwise on
    the model itself, at its parameters of the moment. `mode="unchanged"` leaves each module in the mode the model is in
    instead of eval mode; modules that then make the loss random or change their own state are refused. `mode="batch"`
    is eval mode but for BatchNorm, which takes the statistics of the batch, as in training, and keeps its own as they
    are: L then depends on how the data are cut into batches.

    `micro_batch` splits every batch into parts of so many rows, to fit memory: the same mean, if rows are independent
    of each other. `autocast` runs the model in that dtype, with sums and θ in their own. `data_parallel`: each process
    of the initialised `torch.distributed` group passes the same batches and works on its share of them, with one
    all-reduce per value, gradient or product; all processes must then ask the same questions.

    Raises `TypeError` for one-shot iterators and complex parameters, `ValueError` for empty data, batches that differ
    from walk to walk, a loss that is no scalar, adds up over examples or is random, θ of the wrong shape.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Iterable[Any],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        mode: Mode = "eval",
        count: Count | None = None,
        micro_batch: int | None = None,
        autocast: torch.dtype | None = None,
        data_parallel: bool = False,
    ) -> None:
        model = self.original = unwrapped(model)  # whose parameters an optimizer holds, also where this works on a copy
        space = ParameterSpace.of(model).real()
        here = next(parameter.device for parameter in model.parameters() if parameter.requires_grad)
        self.device = here if device is None else torch.empty(0, device=device).device
        if self.device != here or (dtype is not None and set(space.dtypes) != {dtype}):
            model = copy.deepcopy(model).to(device=self.device, dtype=dtype)
            space = ParameterSpace.of(model)
            if isinstance(loss_fn, nn.Module):  # class weights must be where the outputs are
                loss_fn = copy.deepcopy(loss_fn).to(device=self.device, dtype=dtype)
        self.space = space
        self.function = ModelFunction(model, loss_fn, mode=mode, autocast=autocast, device=self.device)
        self.population: int | None = None  # how many examples these were chosen from, where they are not all
        self._data_parallel = data_parallel
        self._batching: dict[str, Any] = {
            "count": count,
            "dtype": dtype,
            "loss": self.function.torch_loss,
            "whole": isinstance(loss_fn, ModelLoss),
            "micro_batch": micro_batch,
        }
        self._work = Work()
        self.statistics_over: Batches | None = None  # what `reestimated` walks over, if not `batches`
        self._take(batches)

    def on(self, batches: Iterable[Any]) -> Objective:
        """The same model, loss and options over other data; its work counts in this objective's counters too."""
        other = copy.copy(self)
        other._work, other.statistics_over = Work(self._work), None
        other._take(batches)
        return other

    def restricted(self, which: Selection) -> Objective:
        """L as a function of some parameters, the others held at the model's: of a layer, say, or of the norm layers.

        `which` selects as in `ParameterSpace.subspace`: names, prefixes, shell patterns, module types or a predicate.
        Its work counts in this objective's counters too.
        """
        other = copy.copy(self)
        other._work = Work(self._work)
        other.space = self.space.subspace(which)
        return other

    def reestimated(self, theta: Tensor | None = None, *, examples: int | None = None) -> Objective:
        """The same loss over the same batches of a copy of the model at θ, with BatchNorm's statistics gathered there.

        For θ far from the model's own, whose running statistics do not fit; `.theta` of what comes back is this θ. They
        are averages over the first batches of the data with at most `examples` rows together (10,000 if left out), one
        at least, each counting alike; at a checkpoint over the training data as its evaluation has them, all of those.
        Other data: `objective.on(those).reestimated(theta).on(these)`. Without BatchNorm, or in `mode="batch"`, L as it
        was. Cost: a forward pass of those examples, counted here too, and memory for a model.
        """
        batches, most = (self.batches, 10_000) if self.statistics_over is None else (self.statistics_over, sys.maxsize)
        other = copy.copy(self)
        other._work = Work(self._work)
        point, most = point_of(self, theta)[0], most if examples is None else examples
        other.function = function_at(self, point, batches, examples=most, processes=self._processes)
        return other

    @property
    def _processes(self) -> int:
        return distributed.get_world_size() if self._data_parallel else 1

    def _take(self, batches: Iterable[Any]) -> None:
        share = (distributed.get_rank(), distributed.get_world_size()) if self._data_parallel else (0, 1)
        self.batches = Batches(batches, device=self.device, share=share, **self._batching)
        self._totals: tuple[int, int, float] | None = None
        if self._data_parallel:  # now, by every process at once, and never again
            ours = (self.local_examples, len(self.batches), self.batches.weight)
            totals = self.reduce(torch.tensor(ours, dtype=accumulator(self.device), device=self.device)).tolist()
            self._totals = (round(totals[0]), round(totals[1]), totals[2])

    # what it is of, and over

    @property
    def model(self) -> nn.Module:
        """The model evaluated: the one given, or its copy in another dtype or on another device."""
        return self.function.model

    @property
    def loss_fn(self) -> LossFunction:
        """The loss of a batch."""
        return self.function.loss_fn

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
        """Examples in all batches together, those of all processes."""
        return self._totals[0] if self._totals else self.local_examples

    @property
    def weight(self) -> float:
        """Σ_b W_b, over all processes: what L is a mean over."""
        return self._totals[2] if self._totals else self.batches.weight

    @property
    def local_examples(self) -> int:
        """Examples in the batches of this process."""
        return sum(self.batches.counts)

    @property
    def partial(self) -> bool:
        """Whether the examples are a part of a larger set: what is exact for them is an estimate for that."""
        return self.population is not None and self.examples < self.population

    @property
    def theta(self) -> Tensor:
        """(n,) a copy of the model's current parameters."""
        parameters = dict(self.model.named_parameters())
        return self.space.flatten(parameters[name].detach() for name in self.space.names)

    @property
    def description(self) -> dict[str, str | int | float | bool]:
        """What a number from this objective is a number of, for file attributes."""
        batches = self._totals[1] if self._totals else len(self.batches)
        return description_of(self, batches=batches, processes=self._processes)

    # values, gradients, curvature

    def __call__(self, theta: Tensor | None = None) -> Tensor:
        """L(θ): a scalar for θ of shape (n,), (k,) for (k, n) with one walk over the data. Cost: k forward passes.

        At the model's own parameters a non-finite loss raises `FloatingPointError`; at a given θ it is returned as it
        is, since a surface may well be asked for where the loss overflows.
        """
        values = losses_at(self, point_of(self, theta, rows=True))
        if theta is None:
            return require_finite(values, self.function.loss_name)[0]
        return values if theta.ndim == 2 else values[0]

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L(θ), shape (n,); zeros for parameters the loss does not use. Cost: one gradient."""
        total = gradient_at(self, point_of(self, theta)[0])
        return total if theta is not None else require_finite(total, self.function.loss_name)

    def hessian(
        self,
        theta: Tensor | None = None,
        *,
        way: HessianWay | Literal["finite differences"] = "auto",
        memory: int | None = None,
    ) -> LinearOperator:
        """H = ∇²L(θ) as a symmetric operator (n, n), fixed at θ and at the batches as they are now.

        `way`: how products are formed (module `hessian_products`), by default the one that suits; the operator's own
        `way` says which it was; "finite differences" only if asked for. `memory`: bytes it may keep for that. Cost: a
        gradient of the first batch now, and 1.1 to 4 gradients for `H @ v`. Raises `ValueError` where the loss is not
        deterministic, with the cure.
        """
        point = checked_point(self, theta)
        if way == "finite differences":
            return FiniteDifferenceHessian(self, point)
        return hessian_operator(self, point, way=way, memory=memory)

    def ggn(self, theta: Tensor | None = None, *, memory: int | None = None) -> CurvatureOperator:
        """The generalized Gauss–Newton matrix Σ_b (N_b/N) J_bᵀ (∇²ℓ_b) J_b at θ, with ∇²ℓ_b in the model's outputs.

        Symmetric (n, n), positive semi-definite where ℓ is convex in the outputs, as cross-entropy and MSE are. Cost
        and errors as `hessian`; a loss that is linear in the outputs (a model that returns its own loss) is a
        `ValueError`.
        """
        return gauss_newton_operator(self, checked_point(self, theta), memory=memory)

    def fisher(
        self,
        theta: Tensor | None = None,
        *,
        kind: Literal["true", "empirical"] = "true",
        likelihood: Likelihood | None = None,
        memory: int | None = None,
    ) -> CurvatureOperator:
        """The Fisher matrix at θ, (n, n), positive semi-definite; conventions and factors to others: `gauss_newton`.

        `true`: E over examples and over labels drawn from the model, weighed as the loss weighs them (class weights,
        ignored targets); `likelihood` is "categorical" (softmax over dimension 1 of the outputs; mean over positions),
        "bernoulli" (sigmoid; mean over entries), "gaussian" (unit variance; sum over an example's outputs), or a
        function of the outputs whose second derivative in them is their Fisher matrix; by default it is read off the
        loss. `empirical`: the mean over rows of g gᵀ with the data's own labels. Cost and errors as `hessian`; the
        empirical one needs a model that treats its rows independently.
        """
        point = checked_point(self, theta)
        if kind == "true":
            return fisher_operator(self, point, likelihood, memory=memory)
        if kind == "empirical":
            return empirical_fisher_operator(self, point, memory=memory)
        raise ValueError(f'expected kind="true" or "empirical", got {kind!r}')

    # the pieces curvature products are made of

    def running(self) -> contextlib.AbstractContextManager[None]:
        """The model in the objective's mode, with kernels that have second derivatives; all is put back after."""
        return self.function.running()

    def batch_loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """ℓ_b at `parameters`, a scalar."""
        return self.function.batch_loss(parameters, batch)

    def leaves(self, point: Tensor) -> dict[str, Tensor]:
        """Parameters at θ = `point` as leaves to differentiate with respect to."""
        return {name: block.detach().requires_grad_() for name, block in self.space.unflatten(point).items()}

    def reduce(self, total: Tensor) -> Tensor:
        """The sum of `total` over all processes, in place."""
        if self._data_parallel:
            distributed.all_reduce(total)
        return total
