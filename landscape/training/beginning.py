"""How a training begins: the folder is recognised or the experiment tried, and a folder in which nothing came about is
given back.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from landscape.runs.checkpoint import Checkpoint
from landscape.runs.lock import NAME as LOCK
from landscape.runs.lock import writing
from landscape.runs.run import Run
from landscape.training.prolonged import is_prolonged


class _Rehearsable(Protocol):
    def rehearse(self, run: Run) -> None: ...
    def close(self) -> None: ...


def last_of_its_experiment(run: Run) -> Checkpoint | None:
    """The last checkpoint, from which training continues, of fewer epochs maybe; None where there is none.

    Raises:
        ValueError: It was trained by another experiment than experiment.toml describes; names what differs.
        RefusedFile: The file is damaged.
    """
    if not run.steps:
        return None
    last = run.checkpoint("last")
    if last.experiment != run.experiment and not is_prolonged(last.experiment, run.experiment):
        different = last.experiment.difference(run.experiment, f"in {last.path.name}", "in experiment.toml")
        raise ValueError(
            f"{run.path}: its last checkpoint was trained by another experiment than experiment.toml describes "
            f"({different}); change experiment.toml back, or train the new experiment in another folder"
        )
    return last


def rehearse(make: Callable[[], _Rehearsable], run: Run) -> None:
    """Make a training, let it try its first steps and a checkpoint in memory, and forget it.

    Raises:
        ValueError: It fails, for whatever reason; `make`'s own ValueErrors come as they are.
        OSError, torch.OutOfMemoryError: As they came: they say nothing of the experiment.
    """
    made = False
    try:
        training = make()
        made = True
        with contextlib.closing(training):
            training.rehearse(run)
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not made:
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"this experiment fails in its first steps, so nothing was written: {kind}{error}") from error
    del training
    if torch.accelerator.is_available():
        gc.collect()  # torch's optimizers are parts of cycles; on a device that is full before the host is, do not wait


@contextlib.contextmanager
def given_back(run: Run, *, unless: Callable[[Exception], bool]) -> Iterator[None]:
    """If the block fails before a checkpoint after step 0, remove what it and `Run.create` made in the folder.

    Whatever else lies there stays, and then the folder too. `unless(error)`: the begun run is of use nevertheless.
    """
    try:
        yield
    except Exception as error:
        if not run.steps or (run.steps[-1] == 0 and not unless(error)):
            with writing(run.path):
                for file in (run.path / "experiment.toml", *map(run.checkpoint_path, run.steps)):
                    file.unlink(missing_ok=True)
                (run.path / LOCK).unlink(missing_ok=True)
            for folder in (run.path / "checkpoints", run.path / "analyses", run.path):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
        raise
