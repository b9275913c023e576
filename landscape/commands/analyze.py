"""`landscape analyze RUN ANALYSIS [--steps all] [--option value …]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tqdm import tqdm

from landscape.commands.parser import add_allow, allow, command_parser

NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:function; no option and no path has this form


def main(arguments: Sequence[str]) -> None:
    """Answer one analysis at a run's checkpoints, from the files where they exist."""
    import analyses
    from analyses.saved import analyze, device_of
    from analyses.second_subject import subjects_of, vectors_of
    from landscape import distributed
    from landscape.runs.run import Run

    description = "Ask a question of a run's checkpoints; each answer is a file in RUN/analyses and is computed once."
    parser = command_parser("analyze", f"{description} Analyses: {', '.join(analyses.available())}.")
    parser.add_argument("run", help="The run's folder.")
    parser.add_argument(
        "analysis", help="The analysis, or package.module:function; RUN ANALYSIS --help lists its options."
    )
    parser.add_argument("--steps", default="last", help="Checkpoints: last, first, all, or steps as 0,100,200.")
    parser.add_argument("--split", type=Literal["train", "test"], default="train", help="The data averaged over.")
    parser.add_argument("--examples", type=int | None, default=None, help="How many of its examples; all if left out.")
    parser.add_argument("--draw", type=int, default=0, help="Which of them: another number, another random part.")
    parser.add_argument(
        "--draws", type=int | None, default=None, help="So many random parts, and the spread over them."
    )
    parser.add_argument("--micro_batch", type=int | None, default=None, help="Rows of a batch at once, to fit memory.")
    parser.add_argument(
        "--autocast",
        type=Literal["bfloat16", "float16"] | None,
        default=None,
        help="The model's arithmetic; off if left out.",
    )
    parser.add_argument(
        "--device", type=str | None, default=None, help="Where to compute, if not where it was trained."
    )
    parser.add_argument(
        "--dtype", type=Literal["float32", "float64"] | None, default=None, help="If not the run's own."
    )
    add_allow(parser)
    # the options to be parsed depend on the analysis, which may stand anywhere among the arguments
    name = next((argument for argument in arguments if argument in analyses.available()), None) or next(
        filter(NAMED.fullmatch, arguments), None
    )
    options: list[str] = []
    if name is not None:
        analysis = analyses.get(name)
        # a vector cannot be typed on a command line; the momentum comes from the checkpoint
        vectors, seconds = set(vectors_of(analysis.options)), subjects_of(analysis.options)
        options = [key for key in analysis.options if key not in vectors]
        parser.add_function_arguments(analysis.function, fail_untyped=False, skip={1, *vectors, *seconds})
        for key in seconds:
            required = analysis.options[key].default is analysis.options[key].empty
            parser.add_argument(
                f"--{key}",
                type=str if required else str | None,
                required=required,
                help="A second run, at its last checkpoint, or at a step as runs/b@1200.",
            )
    chosen = parser.parse_args(list(arguments)).as_dict()
    allow(chosen["allow"])
    analyses.get(chosen["analysis"])
    run = Run.open(chosen["run"])
    steps: list[int | str] = [chosen["steps"]] if chosen["steps"] in ("last", "first") else list(run.steps)
    if chosen["steps"] not in ("last", "first", "all"):
        try:
            steps = [int(step) for step in chosen["steps"].split(",")]
        except ValueError:
            raise ValueError(
                f"--steps: expected last, first, all or numbers as 0,100, got {chosen['steps']!r}"
            ) from None
    named = ("split", "examples", "draw", "draws", "micro_batch", "autocast", "device", "dtype")
    common = {key: chosen[key] for key in named}
    with distributed.process_group(chosen["device"] or device_of(run.checkpoint([*steps, "last"][0]))) as device:
        first = distributed.rank() == 0
        if distributed.world_size() > 1:
            common["device"] = str(device)
        for step in tqdm(steps, desc=chosen["analysis"], unit="checkpoint", delay=2, disable=not first):
            dataset = analyze(run, chosen["analysis"], step=step, **common, **{key: chosen[key] for key in options})
            if first:
                print(f"step {dataset.attrs['step']}: {dataset.attrs['path']}")
                for variable, values in dataset.data_vars.items():
                    if values.dtype.kind in "fiub" and values.size <= 10:
                        print(f"  {variable!s:<24} {' '.join(f'{value:.5g}' for value in values.values.ravel())}")
