"""The table of methods: one decorator on a method's class, and `create`, the command line and the tests find it.

Anybody's class is found without it, as `package.module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar

from torch.optim import Optimizer

from optimizers.core.sharpness_aware import SharpnessAware
from optimizers.ground.signatures import check_values, checked, close_matches, options_of

_Method = TypeVar("_Method", bound="type[SharpnessAware]")
_Class = TypeVar("_Class")
Counts = Callable[[int], Sequence[int]]
Moves = Literal["all", "normalisation layers", "nothing"]
_MANY = 1000
_METHODS: dict[str, tuple[type[SharpnessAware], OptimizerInfo]] = {}


@dataclass(frozen=True)
class OptimizerInfo:
    """What one line of a table says about a method."""

    name: str
    summary: str
    cost: str
    """Gradient evaluations per step, in words; `gradients` has the numbers."""
    state: str
    """Memory beyond the base optimizer's, in copies of the parameters, in words; `copies` has the numbers."""
    reference: str
    defaults: dict[str, Any]
    closure_free: bool
    """Whether `loss.backward(); optimizer.step()` works too."""
    rho_range: tuple[float, float] | None
    """The radii that the paper uses; far outside of them a warning is given."""
    lengths: dict[str, float]
    """Options counted in steps that follow the length of a training, in epochs of it; infinity is all of it."""
    gradients: Counts
    """Gradients in so many steps with the default options: the numbers that are possible, one where it is exact."""
    forward_passes: Counts
    """Forward passes in so many steps, likewise."""
    copies: tuple[int, int]
    """Copies of the parameters held between steps, and at most during one, beside the base's and the gradient."""
    needs_batch: bool
    """Whether it looks into the batch, so that a plain closure is not enough."""
    example: dict[str, Any]
    """Options with which a batch of 16 examples shows what is particular to the method."""
    reads: Counts
    """Numbers that the host waits for in so many steps with the default options."""
    moves: Moves
    """Which parameters are perturbed: all, those of normalisation layers, or none."""
    negative_rho: str | None
    """What ρ < 0 means; None where it is refused."""
    one_ball: bool
    """Whether all parameter groups must have one ρ."""
    reads_layers: bool
    """Whether it asks which layer a parameter belongs to: where `gc.freeze()` hides layers it must be told the model."""
    shards: bool
    """Whether it works on the shards of FSDP2."""


def register(
    name: str,
    *,
    reference: str,
    cost: str | None = None,
    state: str | None = None,
    closure_free: bool = False,
    rho_range: tuple[float, float] | None = None,
    lengths: dict[str, float] | None = None,
    gradients: Counts | None = None,
    forward_passes: Counts | None = None,
    copies: tuple[int, int] = (0, 1),
    needs_batch: bool = False,
    example: dict[str, Any] | None = None,
    reads: Counts = lambda steps: (0,),
    moves: Moves = "all",
    negative_rho: str | None = None,
    one_ball: bool = False,
    reads_layers: bool = False,
    shards: bool = True,
) -> Callable[[_Method], _Method]:
    """Enter a class `X(base, **hyperparameters)` under `name`; summary and defaults come from the class itself.

    What a method costs and needs is said here, once, and read by the README, the tests and planners. Unsaid, a step takes
    two gradients, or one where it is `closure_free`, and as many forward passes. `cost` and `state` are for what numbers
    cannot say: left out, they are the numbers.
    """
    counted: Counts = gradients or (lambda steps: (steps if closure_free else 2 * steps,))

    def enter(method: _Method) -> _Method:
        if name in _METHODS:
            raise ValueError(f"an optimizer named {name!r} exists already; give this one another name")
        _METHODS[name] = (
            method,
            OptimizerInfo(
                name=name,
                summary=_summary(method),
                cost=cost or _cost(counted),
                state=state or _state(copies, closure_free),
                reference=reference,
                defaults=_defaults(method),
                closure_free=closure_free,
                rho_range=rho_range,
                lengths=lengths or {},
                gradients=counted,
                forward_passes=forward_passes or counted,
                copies=copies,
                needs_batch=needs_batch,
                example=example or {},
                reads=reads,
                moves=moves,
                negative_rho=negative_rho,
                one_ball=one_ball,
                reads_layers=reads_layers,
                shards=shards,
            ),
        )
        method.rho_range = rho_range
        method.__init__ = checked(name, options_of(method))(method.__init__)  # type: ignore[method-assign]
        return method

    return enter


def _cost(gradients: Counts) -> str:
    counts = gradients(_MANY)
    each = [f"{number / _MANY:g}" for number in (min(counts), max(counts))]
    return " to ".join(dict.fromkeys(each))


def _state(copies: tuple[int, int], closure_free: bool) -> str:
    between, most = copies
    if between == most or closure_free:  # without a closure, what a step needs is held between steps, too
        return str(most)
    return f"{between}, and {most - between} during the step" if between else f"{most} during the step"


def _summary(method: type[SharpnessAware]) -> str:
    return (inspect.getdoc(method) or "").split("\n", 1)[0]


def _defaults(method: type[SharpnessAware]) -> dict[str, Any]:
    options = list(inspect.signature(method.__init__).parameters.values())[2:]
    return {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}


def discover() -> list[ModuleType]:
    """Import every paper's file of this package, new ones too: a file with a decorator is all that a method needs."""
    package = importlib.import_module(__name__.split(".")[0])
    files = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in files]


def available() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    discover()
    return tuple(sorted(_METHODS))


def hyperparameters(name: str) -> dict[str, inspect.Parameter]:
    """The hyperparameters of the method called `name`, those common to all included."""
    known = options_of(_found(name)[0])
    known.pop("base", None)
    return known


def create(name: str, base: Optimizer, **options: Any) -> SharpnessAware:
    """The method called `name` over `base`; an unknown name or option answers with those that exist.

    `package.module:Class` is anybody's, a subclass of `SharpnessAware`: its module is imported, which runs its code.
    """
    known = hyperparameters(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        expected = f"{', '.join(known) or 'none'}{close_matches(unknown, known)}"
        raise TypeError(f"{name}: unknown hyperparameter {', '.join(unknown)}; expected among: {expected}")
    check_values(name, known, options)
    return _found(name)[0](base, **options)


def describe(name: str) -> OptimizerInfo:
    """What is known of the method called `name`; of one that is not registered, as much as its class tells."""
    return _found(name)[1]


def _found(name: str) -> tuple[type[SharpnessAware], OptimizerInfo]:
    if ":" in name:
        return _imported(name)
    if name not in _METHODS:
        discover()
    if name not in _METHODS:
        hint = close_matches([name], available())
        raise ValueError(
            f"unknown optimizer {name!r}; expected one of {', '.join(available())}, or package.module:Class{hint}"
        )
    return _METHODS[name]


def imported(kind: str, path: str, expected: type[_Class], called: str) -> type[_Class]:
    """Anybody's class as package.module:Class; `ValueError` if it cannot be imported, or is none of those `called` so."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{kind} {path!r}: expected an importable package.module:Class, got {error}. Is its folder on PYTHONPATH?"
        ) from error
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise ValueError(f"{kind} {path!r}: expected a subclass of {called}, got {found!r}")
    return found


def _imported(path: str) -> tuple[type[SharpnessAware], OptimizerInfo]:
    method = imported("optimizer", path, SharpnessAware, "optimizers.SharpnessAware")
    for entered in _METHODS.values():
        if entered[0] is method:  # its module registers it
            return entered
    return method, OptimizerInfo(
        name=path,
        summary=_summary(method),
        cost="not said",
        state="not said",
        reference="not said",
        defaults=_defaults(method),
        closure_free=False,
        rho_range=method.rho_range,
        lengths={},
        gradients=lambda steps: range(steps, 4 * steps + 1),
        forward_passes=lambda steps: range(steps, 4 * steps + 1),
        copies=(0, 1),
        needs_batch=False,
        example={},
        reads=lambda steps: range(steps + 1),
        moves="all",
        negative_rho=None,
        one_ball=False,
        reads_layers=False,
        shards=True,
    )
