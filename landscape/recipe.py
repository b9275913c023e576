"""A recipe: what to train and how to carry it out, in one flat TOML file, since no name means two things.

    experiment, execution = recipe.loads(Path("recipe.toml").read_text())

The files of `landscape train -c` are such, and so is what version 1 of the format called an experiment.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w

from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.settings import loads as loads_toml
from landscape.settings import require_known


class Recipe(NamedTuple):
    """The two together."""

    experiment: Experiment
    execution: Execution

    def to_toml(self) -> str:
        """The file of both."""
        return tomli_w.dumps(tomllib.loads(self.experiment.to_toml()) | tomllib.loads(self.execution.to_toml()))


def loads(text: str) -> Recipe:
    """The recipe in `text`; what it does not say has its default. Unknown keys and wrong types are refused by name."""
    return of_values(loads_toml(text, Experiment.noun))


def of_values(values: Mapping[str, Any]) -> Recipe:
    """The recipe of these values by name, which came from a file."""
    require_known(values, Experiment, Execution)
    return Recipe(Experiment.of_values(values), Execution.of_values(values))
