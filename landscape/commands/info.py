"""`landscape info PATH`: a run, a checkpoint or an analysis at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landscape.commands.parser import command_parser


def main(arguments: Sequence[str]) -> None:
    """Print what PATH is."""
    parser = command_parser("info", "Show a run's folder, a checkpoint file or an analysis file at a glance.")
    parser.add_argument("path", help="A run's folder, or one of its files.")
    path = Path(parser.parse_args(list(arguments)).path).resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a run's folder or one of its files, found nothing there")
    if path.is_dir():
        print(about_run(path))
    elif path.parent.name == "checkpoints":
        print(about_checkpoint(path))
    else:
        from analyses.saved import read

        dataset = read(path)
        print(dataset)


def about_run(path: Path) -> str:
    """The experiment, its state, its last numbers and its analyses."""
    from landscape.runs.run import Run

    run = Run.open(path)
    lines = [
        f"run          {run.path}",
        f"digest       {run.experiment.digest}",
        f"state        {'finished' if run.finished else 'unfinished'}, {len(run.steps)} checkpoints"
        + (f", steps {run.steps[0]} to {run.steps[-1]}" if run.steps else ""),
    ]
    if run.steps:
        last = run.checkpoint("last")
        lines.append(f"parameters   {last.theta.numel()}")
        carried_out = ", ".join(last.execution.to_toml().splitlines())
        lines.append(f"execution    {carried_out}")
        lines += [f"departure    {line}" for line in str(last.attributes.get("departures", "")).splitlines()]
        for name, series in run.metrics.data_vars.items():
            lines.append(f"{name!s:<24} {float(series[-1]):.6g}  ({series.size} values)")
    lines += [f"analysis     {file.name}" for file in run.analysis_files]
    return "\n".join([*lines, "", run.experiment.to_toml()])


def about_checkpoint(path: Path) -> str:
    """The attributes and the layout of one checkpoint."""
    from landscape.runs.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(path)
    lines = [f"{name:<24} {str(value).splitlines()[0]}" for name, value in checkpoint.attributes.items() if str(value)]
    layout = [f"{name:<40} {tuple(tensor.shape)}" for name, tensor in checkpoint.parameters.items()]
    return "\n".join([*lines, "", *layout])
