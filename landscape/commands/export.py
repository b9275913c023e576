"""`landscape export RUN TARGET`: a run as one file, or a checkpoint's weights for other software."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import command_parser, step


def main(arguments: Sequence[str]) -> None:
    """Write TARGET, in the format its ending names."""
    parser = command_parser(
        "export",
        "Write a run to one HDF5 file (.h5), or the weights of one checkpoint to .safetensors, .pt or .pth.",
    )
    parser.add_argument("run", help="The run's folder.")
    parser.add_argument("target", help="The file to write.")
    parser.add_argument(
        "--step", type=str | None, default=None, help="Which checkpoint's weights: last (if left out), first or a step."
    )
    chosen = parser.parse_args(list(arguments))

    from landscape.runs.archive import export_archive
    from landscape.runs.exchange import export_weights
    from landscape.runs.run import Run

    run, target = Run.open(chosen.run), Path(chosen.target)
    if target.suffix == ".h5":
        if chosen.step is not None:
            raise ValueError(
                "--step: an archive holds all checkpoints; leave it out, or export .safetensors, .pt or .pth"
            )
        export_archive(run, target)
    else:
        export_weights(run.checkpoint(step(chosen.step or "last")), target)
    print(f"{target}: {target.stat().st_size} bytes")
