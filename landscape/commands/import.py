"""`landscape import SOURCE DIRECTORY [-c recipe.toml] [--option value …]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile

from landscape.commands.parser import command_parser, named_recipes
from landscape.experiment import Experiment


def main(arguments: Sequence[str]) -> None:
    """Make a run from weights trained elsewhere, or from a run that was exported to one file."""
    parser = command_parser(
        "import",
        "Make a run in DIRECTORY: from a whole run's .h5, or from weights (.safetensors, .pt, .pth) of the model that "
        "the options describe. No pickled code is run.",
    )
    parser.add_argument("source", help="The file.")
    parser.add_argument("directory", help="The run's folder, new or empty.")
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="A recipe: a TOML file or a packaged name.")
    parser.add_class_arguments(Experiment, as_group=False)
    chosen = parser.parse_args(named_recipes(arguments, "experiments")).as_dict()
    source, directory = chosen.pop("source"), chosen.pop("directory")
    chosen.pop("config")

    from landscape.archive import import_archive
    from landscape.exchange import import_weights

    if Path(source).suffix == ".h5":
        run = import_archive(source, directory)
    else:
        run = import_weights(source, directory, Experiment(**chosen))
    print(f"{run.path}: steps {', '.join(map(str, run.steps))}")
