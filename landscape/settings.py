"""Settings: a frozen, typed, flat record that is a dataclass in Python, a TOML file and a set of options on the command line.

All three are the same thing: `Kind.from_toml(settings.to_toml()) == settings`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

import tomli_w
from jsonargparse import ArgumentParser, Namespace

from landscape import imports, limited_toml

Kind = TypeVar("Kind", bound="Settings")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all such records do: refuse what means nothing, and become TOML and come back from it."""

    noun: ClassVar[str] = "settings"
    bounds: ClassVar[Mapping[str, tuple[float, float | None]]] = {}
    """The least and the largest value (None: there is none) of each number that has such."""

    def __post_init__(self) -> None:
        """Refuse what no option could mean, naming the option, what it may be and what came."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict | list):
                try:  # a tuple and the list that its file has are one setting
                    object.__setattr__(self, f.name, tomllib.loads(tomli_w.dumps({f.name: value}))[f.name])
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{f.name}: expected text, numbers, truth values and lists and tables of them, got {value!r}: "
                        f"{error}"
                    ) from error
            if f.type in ("float", "float | None") and value is not None:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"{f.name}: expected a finite number, got {value!r}")
                object.__setattr__(self, f.name, float(value))  # lr=1 and lr=1.0 are one experiment
            if f.type == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{f.name}: expected a whole number, got {value!r}")
            if f.type == "int" and not -(2**63) <= value < 2**63:
                raise ValueError(f"{f.name}: expected a whole number of at most 64 bits, got {value!r}")
        for name, (low, high) in self.bounds.items():
            value = getattr(self, name)
            if not (low <= value and (high is None or value <= high)):
                between = f"at least {low}" if high is None else f"between {low} and {high}"
                raise ValueError(f"{name}: expected a number {between}, got {value!r}")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def difference(self, other: Settings, of_self: str = "there", of_other: str = "here") -> str:
        """The settings in which two records differ, as `lr = 0.1 there, 0.2 here`."""
        one, two = tomllib.loads(self.to_toml()), tomllib.loads(other.to_toml())
        names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        return ", ".join(f"{n} = {one.get(n, 'unset')} {of_self}, {two.get(n, 'unset')} {of_other}" for n in names)

    def to_toml(self) -> str:
        """All fields as TOML, in the order of the class; what is None is left out, since TOML has no null."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        tables = {name: value for name, value in plain.items() if isinstance(value, dict)}
        scalars = {name: value for name, value in plain.items() if not isinstance(value, dict)}
        return tomli_w.dumps(scalars | {name: value for name, value in tables.items() if value})

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The record that `text` describes; unknown keys and wrong types are refused by name."""
        values = loads(text, cls.noun)
        require_known(values, cls)
        return cls.of_values(values)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Self:
        """The record of these `values`, which came from a file; of what else is among them nothing is taken."""
        own = {name: copy.deepcopy(value) for name, value in values.items() if name in cls.names()}
        parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
        hints = get_type_hints(cls)
        for name in cls.names():
            parser.add_argument(f"--{name}", type=hints[name])
        try:
            checked = parser.parse_object(Namespace(**copy.deepcopy(own)))  # it writes into what it is given
        except Exception as error:
            raise ValueError(f"expected {cls.noun}, got a value of the wrong type: {error}") from error
        # a table is taken as TOML has it: the parser would read the text "1" in it as a number
        chosen: dict[str, Any] = {k: v if isinstance(v, dict | list) else checked[k] for k, v in own.items()}
        with imports.from_file():
            return cls(**chosen)


def loads(text: str, noun: str) -> dict[str, Any]:
    """What `text` says, as TOML; ValueError where it is none."""
    try:
        return limited_toml.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"expected {noun} as TOML, got text that is not TOML: {error}") from error


def require_known(values: Mapping[str, Any], *kinds: type[Settings]) -> None:
    """Raise ValueError for a key that is a field of none of `kinds`; names the nearest that is one."""
    known = [name for kind in kinds for name in kind.names()]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            nouns = " or ".join(kind.noun for kind in kinds)
            raise ValueError(f"unknown key {key!r} in {nouns}{hint} Known keys: {', '.join(known)}")


def apart_from(other: type[Settings], instead: str) -> Callable[[type[Kind]], type[Kind]]:
    """A class decorator: a field of `other` among the arguments is refused, with where it belongs.

    `instead` says how, with `{}` for the argument.
    """

    def decorate(kind: type[Kind]) -> type[Kind]:
        made = kind.__init__

        @functools.wraps(made)
        def init(self: Kind, *args: Any, **fields: Any) -> None:
            for name in fields:
                if name in other.names():
                    given = f"{name}={fields[name]!r}"
                    raise TypeError(f"{name}: expected it {instead.format(given)}, got it in {kind.noun}")
            made(self, *args, **fields)

        kind.__init__ = init  # type: ignore[method-assign, assignment]
        return kind

    return decorate
