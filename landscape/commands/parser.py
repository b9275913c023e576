"""One way for all commands to make a parser: options from a signature, no abbreviations, recipes by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jsonargparse import ArgumentParser


def recipes(kind: str) -> dict[str, Path]:
    """The packaged TOML files of a kind, `experiments` or `studies`, by name."""
    folder = Path(str(resources.files("landscape"))) / "recipes" / kind
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def recipe(name: str, kind: str) -> Path:
    """The file called `name`: a path, or a packaged recipe."""
    path = Path(name)
    if path.is_file():
        return path
    known = recipes(kind)
    if name not in known:
        raise ValueError(f"no recipe {name!r}: expected a TOML file or one of {', '.join(known) or '(none)'}")
    return known[name]


def named_recipes(arguments: Sequence[str], kind: str) -> list[str]:
    """`arguments` with the value of -c or --config replaced by the packaged recipe of that name, where it is one."""
    replaced = list(arguments)
    for i, argument in enumerate(replaced[:-1]):
        if argument in ("-c", "--config"):
            replaced[i + 1] = str(recipe(replaced[i + 1], kind))
    return replaced


def command_parser(command: str, description: str) -> ArgumentParser:
    """A parser that refuses abbreviations and unknown options, raises instead of exiting, and reads TOML."""
    return ArgumentParser(
        prog=f"landscape {command}",
        description=description,
        parser_mode="toml",
        allow_abbrev=False,
        exit_on_error=False,
    )
