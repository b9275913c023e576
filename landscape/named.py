"""Things found by name: a registered factory, or anybody's, as `package.module:factory`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from landscape import imports
from optimizers.ground.signatures import check_values, did_you_mean, options_of, takes_any

F = TypeVar("F", bound=Callable[..., Any])


class Named:
    """A table of factories of one kind ("model", "data set", …) with a decorator to add to it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.factories: dict[str, Callable[..., Any]] = {}

    def register(self, factory: F, *, name: str | None = None) -> F:
        """Add `factory` under its own name, or under `name` where that is no Python name."""
        self.factories[name or factory.__name__] = factory
        return factory

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The factory called `name`; an unknown name answers with the names that exist."""
        if ":" in name:
            return self._imported(name)
        if name not in self.factories:
            near = difflib.get_close_matches(name, self.factories, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown {self.kind} {name!r}: expected one of {', '.join(sorted(self.factories))}, "
                f"or package.module:factory.{hint}"
            )
        return self.factories[name]

    def takes(self, name: str, option: str) -> bool:
        """Whether the factory called `name` says that it takes `option`."""
        return option in inspect.signature(self[name]).parameters

    def _imported(self, path: str) -> Callable[..., Any]:
        imports.require(self.kind, path)
        module_name, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{self.kind} {path!r}: expected an importable package.module:factory, got {error}. "
                "Is its folder on PYTHONPATH?"
            ) from error
        if not callable(found):
            raise ValueError(f"{self.kind} {path!r}: expected something to call, got {type(found).__name__}")
        return found

    def create(self, name: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
        """Call the factory with the user's `options` and those of `given` that its signature takes."""
        factory = self[name]
        known = options_of(factory)
        unknown = [] if takes_any(factory) else sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"{self.kind} {name!r}: unknown option {did_you_mean(unknown, known)}")
        check_values(f"{self.kind} {name!r}", known, options)
        parameters = inspect.signature(factory).parameters
        try:
            return factory(**{k: v for k, v in given.items() if k in parameters and k not in options}, **options)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{self.kind} {name!r}: {error}") from error
        except (AttributeError, LookupError, AssertionError, RuntimeError, ArithmeticError) as error:
            raise ValueError(
                f"{self.kind} {name!r}: raised {type(error).__name__}: {error} (options: {options or 'none'})"
            ) from error
