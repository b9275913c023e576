r"""One step as every choice sees it: its closure, its gradients, where the weights are, and what it has cost.

Weights go to w + ε and back by a copy: adding ε and subtracting it again would leave a rounding error on every step (in
bfloat16 a visible one), and, after one infinite gradient, a NaN for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimizers.core import norms
from optimizers.core.norms import NOTHING, Gradient
from optimizers.core.scaling import Scaling
from optimizers.core.seen import Seen


@dataclass
class Ascent:
    """A direction in weight space: `parameters` and, beside each, its part of d.

    `scale` is the norm that ρ is divided by (one for all, or one for each tensor): ‖d‖ unless a metric says otherwise.
    `fraction` of ρ is used. `disposable` says that the vectors may be overwritten: nobody needs them afterwards.
    """

    parameters: list[Tensor]
    vectors: list[Tensor]
    scale: Tensor | list[Tensor] | None = None
    disposable: bool = False
    fraction: float = 1.0


class Displacement:
    """Parameters that are away from their clean values; `restore` brings them home."""

    def __init__(self, parameters: Sequence[Tensor], clean: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.clean = list(clean)

    def restore(self) -> None:
        """Copy the clean values back, and give the copy's memory back."""
        if self.clean:
            torch._foreach_copy_(norms.shards(self.parameters), self.clean)
            self.clean = []


class Step:
    """One step of `optimizer`. Hooks of all four choices are given it; `decides` is the policy's.

    `closure` computes the whole gradient anew, wherever the weights are (None where there is none). `clean` is the gradient
    at w, empty until it is taken. `displacement` says what is away from w (None: nothing). `evaluations` counts gradients.
    """

    def __init__(
        self,
        optimizer: Seen,
        decides: Callable[[Step], bool],
        closure: Callable[[], Any] | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.closure = closure
        self.scaling = scaling
        self.clean = NOTHING
        self.displacement: Displacement | None = None
        self.evaluations = 0
        self._decides = decides
        self._climbs: bool | None = None
        self._later: dict[int, tuple[Any, dict[str, Any]]] = {}

    @property
    def climbs(self) -> bool:
        """What the policy says of this step: it is asked once, and ever after the answer is the same."""
        if self._climbs is None:
            self._climbs = self._decides(self)
        return self._climbs

    @climbs.setter
    def climbs(self, answer: bool) -> None:
        self._climbs = answer

    @property
    def decided(self) -> bool:
        """Whether the policy has been asked."""
        return self._climbs is not None

    def later(self, axis: object) -> dict[str, Any]:
        """The counters of `axis` that will be others when the step is done, by name: a step that raises moves none."""
        return self._later.setdefault(id(axis), (axis, {}))[1]

    def done(self) -> None:
        """Move the counters."""
        for axis, counters in self._later.values():
            for name, value in counters.items():
                setattr(axis, name, value)
        self._later.clear()

    def of(self, closure: Callable[[], Any]) -> Step:
        """The same step for a part of the batch, which climbs for itself."""
        part = Step(self.optimizer, self._decides, closure, self.scaling)
        part._climbs, part._later = self._climbs, self._later
        return part

    def evaluate(self, closure: Callable[[], Any] | None, *, anew: bool = False) -> Any:
        """One pass, into `.grad`; None stands for one that somebody else has taken. `anew`: earlier gradients are ours."""
        if anew:
            norms.drop(self.optimizer.parameters)
        torch.clear_autocast_cache()  # around the whole step, it would hold the weights before they were moved
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.count()
        if self.scaling is not None:
            self.scaling.unscale(self.gradients())
        return loss

    def count(self, gradients: int = 1) -> None:
        """Note what was spent."""
        self.evaluations += gradients
        self.optimizer.gradient_evaluations += gradients

    def gradients(self) -> Iterator[Tensor]:
        """What `.grad` holds."""
        return (parameter.grad for parameter in self.optimizer.parameters if parameter.grad is not None)

    def gradient(self) -> Gradient:
        """What `.grad` holds now, as a vector."""
        parameters = [parameter for parameter in self.optimizer.parameters if parameter.grad is not None]
        return Gradient(parameters, norms.shards([p.grad for p in parameters if p.grad is not None]))

    def descend(self, base: Optimizer) -> None:
        """The base's step along `.grad`; what the step has gathered is given back before."""
        self.clean = NOTHING
        for name in ("pairs", "psf"):
            self.__dict__.pop(name, None)
        if self.scaling is None:
            base.step()
        else:
            self.scaling.step(base, self.gradients())

    # Both gradients of a step that climbed: g at w beside g_s at w + ε, which `.grad` holds.

    @property
    def finite(self) -> Tensor:
        """Whether g is finite (0-dimensional, on the device)."""
        return self.clean.norm.isfinite()

    @cached_property
    def pairs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Parameters, their parts of g (zeros if g is not `finite`), and of g_s: what `.grad` holds, not copies."""
        clean = norms.finite_or_zero(self.clean.tensors, self.finite, in_place=True)  # ours since the ascent
        present = [(p, g, p.grad) for p, g in zip(self.clean.parameters, clean, strict=True) if p.grad is not None]
        for position, (parameter, g, descent) in enumerate(present):
            if descent.layout is not torch.strided:
                parameter.grad = descent.to_dense()
                present[position] = (parameter, g, parameter.grad)
        return [p for p, _, _ in present], [g for _, g, _ in present], norms.shards([d for _, _, d in present])

    @cached_property
    def psf(self) -> Gradient:
        """h = g_s − g, the part of the perturbed gradient that the perturbation made (≈ ρ H g/‖g‖); 0 if not finite."""
        parameters, clean, descent = self.pairs
        h = Gradient(parameters, list(torch._foreach_sub(descent, clean)) if parameters else [])
        finite = self.finite & h.norm.isfinite().to(self.finite.device)
        h.tensors = norms.finite_or_zero(h.tensors, finite, in_place=True)
        h.norm = torch.where(finite.to(h.norm.device), h.norm, 0.0)
        return h


def move(step: Step, ascent: Ascent) -> Displacement:
    """Add ε = radius · vector / scale to each parameter; 0 for a scale of 0.

    Where a scale is not finite nothing moves, and the optimizer counts that, on the device.
    """
    if not ascent.parameters:
        return Displacement([], [])
    parameters, vectors = norms.shards(ascent.parameters), ascent.vectors
    factors, finite = _factors(ascent, _radii(step.optimizer, ascent))
    step.optimizer.count_skipped_ascent((~finite).int())
    displacement = Displacement(ascent.parameters, [parameter.clone() for parameter in parameters])
    try:
        vectors = norms.finite_or_zero(vectors, finite, in_place=ascent.disposable)
        for parameter, vector, factor in zip(parameters, vectors, factors, strict=True):
            norms.add_scaled(parameter, vector, factor)
    except BaseException:
        displacement.restore()
        raise
    return displacement


def shift(vector: Gradient) -> Displacement:
    """Add a vector to the parameters as it is."""
    parameters = norms.shards(vector.parameters)
    displacement = Displacement(vector.parameters, [parameter.clone() for parameter in parameters])
    try:
        for parameter, tensor in zip(parameters, vector.tensors, strict=True):
            parameter.add_(tensor)
    except BaseException:
        displacement.restore()
        raise
    return displacement


def perturbation(optimizer: Seen, ascent: Ascent) -> list[Tensor]:
    """ε itself as new tensors: one for each parameter, zero where it would not move."""
    moved: dict[Tensor, Tensor] = {}
    if ascent.parameters:
        factors, finite = _factors(ascent, _radii(optimizer, ascent))
        vectors = norms.finite_or_zero(ascent.vectors, finite)
        moved = {
            p: (norms.widened(v) * f).to(p.dtype) for p, v, f in zip(ascent.parameters, vectors, factors, strict=True)
        }
    parameters = optimizer.parameters
    return [
        moved[p] if p in moved else torch.zeros_like(w)
        for p, w in zip(parameters, norms.shards(parameters), strict=True)
    ]


def _radii(optimizer: Seen, ascent: Ascent) -> list[float]:
    radius = optimizer.radius
    return [radius[parameter] for parameter in ascent.parameters]


def _factors(ascent: Ascent, radii: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """One factor beside each vector, 0 where the scale is 0 or not finite; and whether all scales are finite.

    Factors are float32 at least: ρ/‖g‖ of a small gradient is more than float16 can hold.
    """
    assert ascent.scale is not None
    scales = ascent.scale if isinstance(ascent.scale, list) else [ascent.scale] * len(radii)
    different = {id(scale): scale for scale in scales}
    finite = torch.stack([scale.isfinite() for scale in different.values()]).all()
    known: dict[tuple[int, float, torch.device, torch.dtype], Tensor] = {}
    factors = []
    for scale, radius, vector in zip(scales, radii, ascent.vectors, strict=True):
        key = id(scale), radius, vector.device, norms.accumulator(vector.dtype)
        if key not in known:
            factor = torch.where(finite & (scale > 0), ascent.fraction * radius / norms.widened(scale), 0.0)
            factor = factor.nan_to_num(posinf=0.0, neginf=0.0)  # a length too small to divide by is none
            known[key] = factor.to(device=vector.device, dtype=key[3])
        factors.append(known[key])
    return factors, finite


@contextmanager
def own_gradients(parameters: Sequence[Tensor], closure: object) -> Iterator[None]:
    """Raise `RuntimeError` if the closure called in this block adds to gradients that were there before.

    Trainers that accumulate call `backward` on some micro-batches first and hand over the last one as the closure. Those
    gradients, taken at other weights, would be added up with its own. So what lies in `.grad` is dropped, and one
    parameter, the smallest, holds zeros instead: a closure that takes them away, or writes to them before its own gradient
    arrives, zeroes its gradients. One that adds to them meant to add to what was there.

    Costs the zeros of one small parameter, and no look at any number.
    """
    present = [parameter for parameter in parameters if parameter.grad is not None]
    if not present or (getattr(closure, "own", False)):
        norms.drop(present)
        yield
        return
    witness = min(present, key=lambda parameter: parameter.numel())
    assert witness.grad is not None
    zeros = torch.zeros_like(witness.grad)
    norms.drop(present)
    witness.grad = zeros
    version, added = zeros._version, False

    def arrives(_: Tensor) -> None:
        nonlocal added
        added = added or (witness.grad is zeros and zeros._version == version)

    # sharded parameters (FSDP2) receive their gradients outside of autograd: there, the same tensor is taken for added to
    hook = witness.register_hook(arrives) if witness.requires_grad and not norms.is_sharded(witness) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
    kept = witness.grad is zeros and (hook is None or zeros._version == version)
    if added or kept:
        raise RuntimeError(
            "expected a closure that zeroes the gradients and computes those of the whole step, got one that added to "
            "gradients of an earlier backward pass: these were taken at other weights, and a pass at w + ε cannot "
            "repeat what came before. Call optimizer.zero_grad() in the closure and accumulate micro-batches inside it "
            "(or BatchClosure(..., at_once=m)); where a trainer accumulates by itself, step(closure, again=whole) with "
            "the closure of all micro-batches, as optimizers.LightningSteps and optimizers.HuggingFaceSteps do"
        )
