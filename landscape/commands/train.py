"""`landscape train DIRECTORY [-c recipe.toml] [--option value …]`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from landscape.commands.parser import add_allow, add_recipe, allow, command_parser, named_recipes, recipe_of
from landscape.runs.retention import Retention


def main(arguments: Sequence[str]) -> None:
    """Train the experiment that the recipe and the options describe, in a folder of its own."""
    parser = command_parser(
        "train",
        "Run an experiment in DIRECTORY, or continue it there. Exit code 75 after SIGINT or SIGTERM: a checkpoint was "
        "written, the same command continues.",
    )
    parser.add_argument("directory", help="The run's folder; made where it does not exist.")
    add_recipe(parser)
    parser.add_class_arguments(Retention, "keep")
    add_allow(parser)
    chosen = parser.parse_args(named_recipes(arguments, "experiments")).as_dict()
    directory, retention = chosen.pop("directory"), Retention(**chosen.pop("keep"))
    allow(chosen.pop("allow"))

    from landscape.training.training import train

    experiment, execution = recipe_of(chosen, arguments)
    run = train(experiment, directory, execution=execution, retention=retention)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        metrics = run.metrics
        reached = f", test loss {float(metrics.test_loss[-1]):.4g}" if "test_loss" in metrics else ""
        if "test_accuracy" in metrics:
            reached = f", test accuracy {float(metrics.test_accuracy[-1]):.2%}"
        print(f"{run.path}: step {run.steps[-1]}{reached}")
