"""What a file says of the experiment that made it, and of how it was carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from landscape import recipe
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.checkpoint_file import Attribute
from landscape.store.refused_file import RefusedFile

Parsed = TypeVar("Parsed")


def experiment_in(path: Path, text: str) -> Experiment:
    """The experiment that `text`, found in `path`, describes; RefusedFile where it describes none."""
    return _parsed(path, text, recipe.loads).experiment


def execution_in(path: Path, attributes: Mapping[str, Attribute]) -> Execution:
    """The execution under which the checkpoint in `path` was computed; older files have it within the experiment's text."""
    if "execution" in attributes:
        return _parsed(path, str(attributes["execution"]), Execution.from_toml)
    return _parsed(path, str(attributes.get("experiment", "")), recipe.loads).execution


def _parsed(path: Path, text: str, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise RefusedFile(path, f"its experiment is not one that this release understands: {error}") from error
