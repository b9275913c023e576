"""A whole run as one sealed HDF5 file, to share or to put away, and back into a folder.

/checkpoints/step-00001200/…    each as in its own file, see checkpoint_file.py
/metrics, /layout/metrics       all metrics of the run
/analyses/<name>.h5             analysis files, byte for byte
attributes                      format, format_version, experiment
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from landscape.runs.checkpoint_file import (
    LAST_STEP,
    CheckpointContents,
    read_checkpoint,
    write_attributes,
    write_checkpoint,
    write_contents,
)
from landscape.runs.described import experiment_in
from landscape.runs.metric_series import read_metrics, write_metrics
from landscape.runs.metrics_file import write_metrics_file
from landscape.runs.run import Run
from landscape.store.atomic_file import write_bytes
from landscape.store.guarded_hdf5 import Guarded, open_guarded
from landscape.store.sealed_file import new_sealed_file
from landscape.store.tree_codec import Tree

FORMAT = "landscape-toolkit archive"
VERSION = 1

_FILE_NAME = re.compile(r"\w[\w.,=-]*\.h5")  # a file of the folder `analyses` and of no other


def export_archive(run: Run, target: str | Path) -> None:
    """Write all of `run` to the one file `target`; memory holds one checkpoint at a time.

    Raises:
        ValueError: A file in `analyses` has a name that no analysis has.
        OSError: The disk is full, the folder not writable, …; names `target`.
    """
    analyses = run.analysis_files
    for analysis in analyses:
        if not _FILE_NAME.fullmatch(analysis.name):  # as `import_archive` does: what it refuses is not exported
            raise ValueError(f"{analysis}: not the name of an analysis; move it out of the run's folder, or rename it")
    with new_sealed_file(target) as file:
        experiment = run.experiment.to_toml()
        write_attributes(file, {"format": FORMAT, "format_version": VERSION, "experiment": experiment})
        write_metrics(file, run.all_series())
        for step in run.steps:
            path = run.checkpoint_path(step)
            write_contents(file.create_group(f"checkpoints/{path.stem}"), **_contents(read_checkpoint(path)))
        for analysis in analyses:
            file[f"analyses/{analysis.name}"] = np.frombuffer(analysis.read_bytes(), np.uint8)


def import_archive(source: str | Path, directory: str | Path) -> Run:
    """The run in the archive `source`, written out in the new folder `directory`.

    Raises:
        RefusedFile: Not an archive, damaged or incomplete.
        ValueError: The folder is not empty.
    """
    source, directory = Path(source), Path(directory)
    with open_guarded(source) as file:
        if (file.attribute("format"), file.attribute("format_version")) != (FORMAT, VERSION):
            raise file.refuse(f"expected a {FORMAT}, version {VERSION}")
        experiment = str(file.attributes().get("experiment") or file.text("attributes", "experiment"))
        metrics = read_metrics(file)
        steps = _steps(file)
        names = file.names("analyses") if file.has("analyses") else []
        for name in names:
            if not _FILE_NAME.fullmatch(name):
                raise file.refuse(f"/analyses/{name!r:.80}: not the name of an analysis file")
        analyses = {name: file.array("analyses", name, dtype=np.dtype(np.uint8)) for name in names}
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory}: expected a new or an empty folder for the run in {source}")
    run = Run.create(directory, experiment_in(source, experiment))
    with run.writing():
        for step, name in steps.items():
            contents = read_checkpoint(source, ("checkpoints", name))
            write_checkpoint(run.checkpoint_path(step), **_contents(contents))
        (run.path / "metrics").mkdir(exist_ok=True)
        write_metrics_file(run.path / "metrics" / f"to-{max(run.steps, default=0):08d}.h5", metrics)
        for name, data in analyses.items():
            write_bytes(run.path / "analyses" / name, data.data)
    return run


def _steps(file: Guarded) -> dict[int, str]:
    """The groups that hold the checkpoints, by step: each must be called after the step that it says it holds."""
    steps: dict[int, str] = {}
    if not file.has("checkpoints"):
        return steps
    for name in file.names("checkpoints"):
        step = file.attributes("checkpoints", name).get("step")
        if type(step) is not int or not 0 <= step <= LAST_STEP or name != f"step-{step:08d}":
            raise file.refuse(
                f"/checkpoints/{name:.80}: expected the checkpoint of its name, got that of step {step!r:.80}"
            )
        steps[step] = name
    return dict(sorted(steps.items()))


def _contents(contents: CheckpointContents) -> dict[str, Tree]:
    """The arguments of `write_checkpoint` that write the same again."""
    own = ("format", "format_version", "step")
    return {
        "step": contents.step,
        "parameters": contents.parameters,
        "momentum": contents.momentum,
        "buffers": contents.buffers,
        "state": {group: contents.state(group) for group in contents.groups},
        "metrics": contents.metrics,
        "attributes": {name: value for name, value in contents.attributes.items() if name not in own},
    }
