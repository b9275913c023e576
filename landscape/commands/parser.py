"""One way for all commands to make a parser: options from a signature, no abbreviations, recipes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionConfigFile, ArgumentParser

if TYPE_CHECKING:
    from landscape.recipe import Recipe


def recipes(kind: str) -> dict[str, Path]:
    """The packaged TOML files of a kind, `experiments` or `claims`, by name; neither torch nor an analysis is imported."""
    if kind == "claims":
        folder = Path(str(resources.files("landscape"))).parent / "analyses" / kind
    else:
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


def add_recipe(parser: ArgumentParser) -> None:
    """The option -c, and one for each field of `Experiment` and `Execution`: no name means two things."""
    from landscape.execution import Execution
    from landscape.experiment import Experiment

    parser.add_argument("-c", "--config", action=ActionConfigFile, help="A recipe: a TOML file or a packaged name.")
    parser.add_class_arguments(Experiment, as_group=False)
    parser.add_class_arguments(Execution, as_group=False)


def recipe_of(chosen: Mapping[str, Any], arguments: Sequence[str]) -> Recipe:
    """The recipe of parsed options; of the code it names only what stands in `arguments` themselves is allowed."""
    from landscape import imports
    from landscape.execution import Execution
    from landscape.experiment import CHOICES, IMPORTED, Experiment
    from landscape.recipe import Recipe

    with imports.from_file():
        experiment = Experiment(**{name: chosen[name] for name in Experiment.names()})
    for name in IMPORTED:
        value = getattr(experiment, name)
        if f"--{name}={value}" in arguments or (f"--{name}", value) in pairwise(arguments):
            imports.allow(value)
    tables = [(kind, getattr(experiment, kind)) for kind in CHOICES]
    for kind, table in (*tables, *(("augment", table) for table in experiment.augment)):
        name = table.get("name", "")  # as --policy.name mine:Policy, or within --policy {…}
        for option, value in pairwise([*(part for a in arguments for part in a.split("=", 1)), ""]):
            if option in (f"--{kind}", f"--{kind}.name") and name in value:
                imports.allow(name)
    return Recipe(experiment, Execution(**{name: chosen[name] for name in Execution.names()}))


def add_allow(parser: ArgumentParser) -> None:
    """The option --allow; see `landscape.imports`."""
    parser.add_argument(
        "--allow",
        type=str,
        default="",
        help="Code that a file may name, as package.module:factory; several with commas. See landscape.imports.",
    )


def allow(names: str) -> None:
    """Do what --allow says, in this process and in those it starts."""
    import os

    from landscape import imports

    if names:
        os.environ[imports.VARIABLE] = ",".join(filter(None, (os.environ.get(imports.VARIABLE), names)))


def step(text: str) -> int | str:
    """A step on the command line: a number, or `first` or `last`, which a run explains."""
    return int(text) if text.isdecimal() else text


def command_parser(command: str, description: str) -> ArgumentParser:
    """A parser that refuses abbreviations and unknown options, raises instead of exiting, and reads TOML."""
    return ArgumentParser(
        prog=f"landscape {command}",
        description=description,
        parser_mode="toml",
        allow_abbrev=False,
        exit_on_error=False,
    )
