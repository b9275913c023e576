"""Everything in a run's folder, read in full and checked: does each file say what it should, and is anything missing?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from landscape.runs.checkpoint import Checkpoint
from landscape.runs.folder import METRICS_FILE, step_of
from landscape.runs.lock import NAME as LOCK
from landscape.runs.metrics_file import verify_metrics_file
from landscape.runs.run import Run
from landscape.store.atomic_file import TEMPORARY, is_being_written
from landscape.store.dataset_file import ANALYSIS, read_dataset
from landscape.store.refused_file import RefusedFile


@dataclass(frozen=True)
class Finding:
    """A file and what is wrong with it; None is nothing."""

    path: Path
    problem: str | None


def verify(run: Run) -> list[Finding]:
    """One finding for each file of `run`, and one for the run itself.

    Every file is checked byte by byte against its seal and then against its layout. Leftovers of a writer that died are
    named; what a living one is writing is not a file yet.
    """
    files = sorted(_files(run.path))
    text = run.experiment.to_toml()  # what most checkpoints hold word for word: parsed once and not for each
    findings = [Finding(file, _problem(run, file, text)) for file in tqdm(files, desc="verify", unit="file", delay=2)]
    findings = [f for f in findings if f.problem is None or f.path.exists()]  # a trainer beside us drops and replaces
    return [*findings, Finding(run.path, None if any(f.problem for f in findings) else _gap(run))]


def _files(folder: Path) -> Iterator[Path]:
    """What there is to check: all files, and temporary folders whose writers died; those of the living come and go."""
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith(TEMPORARY):
            yield from _files(path)
        elif (path.is_file() and path.name != LOCK) or (path.is_dir() and not is_being_written(path)):
            yield path


def _problem(run: Run, file: Path, text: str) -> str | None:
    try:
        return next(_problems(run, file, text), None)
    except Exception as error:  # whatever a damaged file raises is what is wrong with it
        return str(getattr(error, "reason", error))


def _problems(run: Run, file: Path, text: str) -> Iterator[str]:
    if file.name.startswith(TEMPORARY):
        yield "left by a writer that died; the next training or analysis of this run deletes it"
    elif file.parent.name == "checkpoints":
        step = step_of(file)
        if step is None:
            yield "not a file of this run: expected checkpoints as step-00001200.h5; move it elsewhere"
            return
        try:
            checkpoint = Checkpoint.open(file)  # not by its step: that lists the folder, 5,000 times for 5,000 files
        except RefusedFile:
            run.checkpoint(step)  # says more: what becomes of the training
            raise
        if checkpoint.step != step or file != run.checkpoint_path(step):
            yield f"expected the checkpoint of step {step}, got that of {checkpoint.step}"
        checkpoint.verify()
        other = checkpoint.attributes.get("experiment") != text and checkpoint.experiment != run.experiment
        if other and not checkpoint.experiment.shortens(run.experiment):
            yield "belongs to another experiment than the run"
    elif file.parent.name == "metrics":
        if not METRICS_FILE.fullmatch(file.name):
            yield "not a file of this run: expected metrics as to-00001200.h5; move it elsewhere"
            return
        verify_metrics_file(file)
    elif file.parent.name == "analyses" and file.suffix == ".h5":
        read_dataset(file, ANALYSIS)
    elif file.name == "experiment.toml":
        _ = run.experiment


def _gap(run: Run) -> str | None:
    """Steps without metrics before the last checkpoint: a checkpoint that held them was deleted by hand."""
    if not run.steps:
        return None
    metrics = run.metrics
    have = metrics["step"].values if "step" in metrics.coords else np.empty(0, np.int64)
    if have.size < 2 or have[1] != have[0] + 1:  # nothing is recorded at every step
        return None
    missing = np.setdiff1d(np.arange(have[0], have[-1]), have)
    return f"metrics of steps {missing[0]} to {missing[-1]} are missing" if missing.size else None
