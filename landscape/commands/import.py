"""`landscape import SOURCE DIRECTORY`: a run from one file, or somebody's weights as a run of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import add_allow, add_recipe, allow, command_parser, named_recipes, recipe_of


def main(arguments: Sequence[str]) -> None:
    """Make the run in DIRECTORY."""
    parser = command_parser(
        "import",
        "Make a run from an archive (.h5, by `landscape export`), or from weights (.safetensors, .pt, .pth) and the "
        "experiment whose model they fit, given as for `landscape train`.",
    )
    parser.add_argument("source", help="The file to read.")
    parser.add_argument("directory", help="The run's folder; made where it does not exist.")
    add_recipe(parser)
    add_allow(parser)
    chosen = parser.parse_args(named_recipes(arguments, "experiments")).as_dict()
    source, directory = Path(chosen.pop("source")), chosen.pop("directory")
    allow(chosen.pop("allow"))
    if not directory:
        raise ValueError("directory: expected the name of a folder, got ''; write . for the working folder")
    options = [argument for argument in arguments if argument.startswith("-")]
    if source.suffix == ".h5" and options:
        raise ValueError(f"an archive brings its own experiment; leave out {', '.join(options)}")

    from landscape.runs.archive import import_archive
    from landscape.runs.exchange import import_weights

    if source.suffix == ".h5":
        run = import_archive(source, directory)
    else:
        run = import_weights(source, directory, recipe_of(chosen, arguments).experiment)
    print(f"{run.path}: {len(run.steps)} checkpoints")
