"""`landscape benchmark hessian RUN [--k 5] [--tol 1e-3]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from landscape.commands.parser import add_allow, allow, command_parser, step


def main(arguments: Sequence[str]) -> None:
    """Compare all eigenvalue backends and installed peers on a checkpoint of the user's own run."""
    parser = command_parser(
        "benchmark",
        "Eigenvalues of one checkpoint's Hessian by every program installed, side by side: products, seconds, and the "
        "residuals they really reach. Any model takes part once it is a run: see `landscape import`.",
    )
    parser.add_argument("what", type=Literal["hessian"], help="What to compare.")
    parser.add_argument("run", help="The run's folder.")
    parser.add_argument("--step", default="last", help="Of the checkpoint: last, first or a step.")
    parser.add_argument("--split", type=Literal["train", "test"], default="train", help="The data averaged over.")
    parser.add_argument("--examples", type=int | None, default=None, help="How many of its examples; all if left out.")
    parser.add_argument("--device", type=str | None, default=None, help="Where to compute; the CPU if left out.")
    parser.add_argument("--k", type=int, default=5, help="Eigenvalues of largest magnitude.")
    parser.add_argument("--tol", type=float, default=1e-3, help="The relative residual asked for.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds in which the programs take turns.")
    add_allow(parser)
    chosen = parser.parse_args(list(arguments))
    allow(chosen.allow)

    from analyses.curvature.benchmark import hessian_benchmark, table
    from landscape.devices import usable_device
    from landscape.runs.run import Run

    if chosen.device is not None:
        usable_device(chosen.device)
    checkpoint = Run.open(chosen.run).checkpoint(step(chosen.step))
    objective = checkpoint.objective(chosen.split, examples=chosen.examples, device=chosen.device)
    print(table(hessian_benchmark(objective, k=chosen.k, tol=chosen.tol, repeats=chosen.repeats)))
