"""What a signature says an option may be: types and ranges are written where the option is, and checked in one place.

    def mlp(…, widths: Sequence[Annotated[int, at_least(1)]] = (64, 64), dropout: Annotated[float, between(0, 1)] = 0.0)

Methods, models, data sets, base optimizers and analyses are all called with options that somebody typed, so all are
checked here: an unknown name, a value of another type or out of range is refused by name, before anything is done.
What has no annotation, or one that cannot be resolved, takes anything. A number is finite unless `unbounded` says else.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import torch

F = TypeVar("F", bound=Callable[..., Any])
Mark = TypeVar("Mark")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, the ends included unless said otherwise."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return bool(above and (value < self.high if self.open_high else value <= self.high))

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'more than' if self.open_low else 'at least'} {self.low}"
        return f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class Length:
    """Lists of at least `low` entries."""

    low: int

    def __contains__(self, value: Any) -> bool:
        return len(value) >= self.low

    def __str__(self) -> str:
        return f"with {self.low} or more entries"


def at_least(low: float) -> Range:
    """low ≤ x."""
    return Range(low)


def more_than(low: float) -> Range:
    """low < x."""
    return Range(low, open_low=True)


def between(low: float, high: float) -> Range:
    """low ≤ x ≤ high."""
    return Range(low, high)


def from_up_to(low: float, high: float) -> Range:
    """low ≤ x < high."""
    return Range(low, high, open_high=True)


@dataclass(frozen=True)
class Steps:
    """A mark: the number counts steps of a training, so that it may be said in epochs too.

    `epochs`: as many epochs' steps it is where nobody says it and the length of the training is known; infinity is all.
    """

    epochs: float | None = None


not_empty = Length(1)
unbounded = Range()  # infinities too
Seed = Annotated[int, between(-(2**63), 2**63 - 1)]
Count = Annotated[int, at_least(1)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, Range(0, 1, open_low=True)]


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a function or a class by name, those that its `**options` hands to its parent class included.

    Annotations are resolved where that is possible; elsewhere they are `Any`.
    """
    found: dict[str, inspect.Parameter] = {}
    for owner in _owners(function):
        takes_more = False
        for parameter in inspect.signature(owner).parameters.values():
            takes_more = takes_more or parameter.kind is parameter.VAR_KEYWORD
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self":
                resolved = parameter.replace(annotation=_resolved(parameter.annotation, owner))
                found.setdefault(parameter.name, resolved)
        if not takes_more:
            break
    return found


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether options of any name are taken, so that none is known to be unknown."""
    return all(
        any(p.kind is p.VAR_KEYWORD for p in inspect.signature(owner).parameters.values())
        for owner in _owners(function)
    )


def _owners(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    if not inspect.isclass(function):
        return [function]
    return [c.__init__ for c in function.__mro__ if "__init__" in vars(c) and c is not object] or [object]  # type: ignore[misc]


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    plain = inspect.unwrap(function)
    names = getattr(plain, "__globals__", None) or vars(sys.modules.get(plain.__module__, types))
    try:
        return eval(annotation, dict(names))  # an annotation is code of the module it stands in
    except Exception:  # a name that is imported for type checkers only, or whatever else stands there
        return Any


def check_options(subject: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse an option of `function` that is unknown, of another type or out of range.

    Raises:
        TypeError: Unknown, or of another type.
        ValueError: Not one of the values or not in the range that the signature names.
    """
    known = options_of(function)
    unknown = [name for name in options if name not in known]
    if unknown and not takes_any(function):
        raise TypeError(f"{subject}: unknown option {did_you_mean(unknown, known)}")
    check_values(subject, known, options)


def check_values(subject: str, known: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Refuse a value of another type or out of range, of the options that are known."""
    for name, value in options.items():
        if name not in known or value is known[name].default:
            continue
        hint = known[name].annotation
        if not fits(hint, value):
            kind = ValueError if fits(_loose(hint), value) else TypeError
            raise kind(f"{subject}: {name}: expected {in_words(hint)}, got {value!r}")


def did_you_mean(unknown: Sequence[str], known: Iterable[str]) -> str:
    """`rhoo; expected among rho, k (did you mean 'rho'?)`."""
    known = list(known)
    return f"{', '.join(unknown)}; expected among {', '.join(known) or 'none'}{close_matches(unknown, known)}"


def close_matches(unknown: Sequence[str], known: Iterable[str]) -> str:
    """` (did you mean 'rho'?)`, or nothing where no known name is like one of the unknown."""
    known = list(known)
    near = [repr(match) for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
    return f" (did you mean {', '.join(near)}?)" if near else ""


def checked(subject: str, known: Mapping[str, inspect.Parameter] | None = None) -> Callable[[F], F]:
    """A decorator: a call whose keyword arguments do not fit the signature (or what is `known`) is refused."""

    def decorate(function: F) -> F:
        options = options_of(function) if known is None else known

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            check_values(subject, options, kwargs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def fits(hint: Any, value: Any) -> bool:
    """Whether `value` is what the annotation `hint` says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [limit for limit in hint.__metadata__ if isinstance(limit, Range | Length)]
        if unbounded in limits:
            return _is_number(value) and value == value
        return fits(arguments[0], value) and all(value in limit for limit in limits)
    if origin in (Union, types.UnionType):
        return any(fits(argument, value) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if isinstance(value, torch.Tensor) and value.ndim == 0 and hint in (int, float):
        value = value.item()
    if hint is float:
        return _is_number(value) and math.isfinite(value)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    listed = origin if origin is not None else hint
    if isinstance(listed, type) and issubclass(listed, Sequence) and listed is not str:
        return _fits_list(listed, arguments, value)
    if isinstance(listed, type) and listed is not torch.Tensor:
        try:
            return isinstance(value, listed)
        except TypeError:  # a protocol that cannot be asked
            return True
    return True


def mark_of(kind: type[Mark], hint: Any) -> Mark | None:
    """The mark of this kind that the annotation carries, if any."""
    own = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, kind)]
    inner = [mark_of(kind, argument) for argument in get_args(hint)] if get_origin(hint) is not Literal else []
    return next((mark for mark in [*own, *inner] if mark is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _fits_list(kind: type, arguments: tuple[Any, ...], value: Any) -> bool:
    if hasattr(value, "tolist"):
        value = value.tolist()  # of torch or NumPy
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return False
    if issubclass(kind, tuple) and arguments and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(fits, arguments, value))
    return all(fits(arguments[0], entry) for entry in value) if arguments else True


def _loose(hint: Any) -> Any:
    """The annotation without its ranges, and with the type of the values of a Literal in place of them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _loose(arguments[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(_loose(argument) for argument in arguments)]  # noqa: UP007
    if origin is Literal:
        return Union[tuple(type(one) for one in arguments)]  # noqa: UP007
    return numbers.Real if hint is float else hint if origin is None else origin


_WORDS = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text", dict: "a table"}


def in_words(hint: Any) -> str:
    """The annotation as a sentence has it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [str(limit) for limit in hint.__metadata__ if isinstance(limit, Range | Length) and limit != unbounded]
        return " ".join([in_words(arguments[0]), *limits])
    if origin in (Union, types.UnionType):
        return " or ".join("none" if argument is type(None) else in_words(argument) for argument in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    listed = origin if origin is not None else hint
    if isinstance(listed, type) and issubclass(listed, tuple) and arguments and Ellipsis not in arguments:
        return f"a list ({', '.join(map(in_words, arguments))})"
    if isinstance(listed, type) and issubclass(listed, Sequence) and listed is not str:
        return f"a list, each entry {in_words(arguments[0])}" if arguments else "a list"
    if origin is not None and isinstance(origin, type) and origin not in _WORDS:
        return "something to call" if "Callable" in str(hint) else str(hint)
    return _WORDS.get(listed, getattr(listed, "__name__", str(listed)))
