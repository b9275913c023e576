"""A run is a folder of immutable files; a checkpoint is one of them, with everything needed to ask questions of it.

    runs/<name>/experiment.toml                    what was asked for
                checkpoints/step-00001200.h5       see checkpoint_file.py
                analyses/*.h5

                metrics/to-00001100.h5             the metrics of checkpoints that were dropped, see retention.py

    run = Run.open("runs/msam")
    run.metrics.loss                               one Dataset over all segments
    run.checkpoint("last").theta                   the clean weights

Both are lazy: a file is opened for the one thing asked of it and closed again. Files appear whole under their name or
not at all, so reading is safe while training writes, needs no lock and no write access.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from torch import Tensor, nn

from landscape.runs.checkpoint import Checkpoint, model_tensors
from landscape.runs.checkpoint_file import Attribute, read_segment, write_checkpoint
from landscape.runs.described import experiment_in
from landscape.runs.folder import METRICS_FILE, barely_begun, step_of
from landscape.runs.lock import writing
from landscape.runs.metric_series import Series, as_dataset, join
from landscape.runs.metrics_file import read_metrics_file, write_metrics_file
from landscape.runs.provenance import provenance
from landscape.runs.retention import Retention
from landscape.shortened import shortened
from landscape.store.atomic_file import remove_leftovers, write_text
from landscape.store.background_writer import BackgroundWriter
from landscape.store.refused_file import RefusedFile
from landscape.store.tree_codec import Tree

if TYPE_CHECKING:
    from landscape.experiment import Experiment

__all__ = ["Checkpoint", "Run"]


class Run:
    """A folder with one experiment, its checkpoints and its analyses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._segments: dict[Path, tuple[int, dict[str, Series]]] = {}  # with the time of the file

    @classmethod
    def create(cls, directory: str | Path, experiment: Experiment) -> Run:
        """The run of `experiment` in `directory`: a new one, or the one that is already there.

        Raises:
            ValueError: The folder holds another experiment, or files that are no run.
        """
        if not str(directory):
            raise ValueError("expected the name of a folder for the run, got ''; write . for the working folder")
        path = Path(directory)
        file = path / "experiment.toml"
        if not file.exists():
            if path.is_dir() and not barely_begun(path):
                raise ValueError(f"{path}: expected a new or an empty folder or a run, got a folder with other files")
            path.mkdir(parents=True, exist_ok=True)
            with writing(path):
                if not file.exists():  # two that create the same run at once agree on one of them
                    (path / "checkpoints").mkdir(exist_ok=True)
                    (path / "analyses").mkdir(exist_ok=True)
                    write_text(file, experiment.to_toml())
        run = cls.open(path)
        run._remove_leftovers()  # a finished run may have some too, and nobody locks it again
        if run.experiment != experiment:
            differs = run.experiment.difference(experiment)
            raise ValueError(f"{path} holds another experiment ({differs}); choose another folder, or repeat that one")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in the folder `path`; FileNotFoundError where there is none."""
        path = Path(path)
        if not (path / "experiment.toml").is_file():
            raise FileNotFoundError(f"{path}: expected the folder of a run, found no experiment.toml in it")
        return cls(path)

    @classmethod
    def planned(cls, path: str | Path, experiment: Experiment) -> Run:
        """The run that `create` would make, without making it: no file is read or written."""
        run = cls(Path(path))
        run.experiment = experiment
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def experiment(self) -> Experiment:
        """What the run was asked to do."""
        return experiment_in(self.path / "experiment.toml", (self.path / "experiment.toml").read_text())

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints there are now, rising."""
        files = (self.path / "checkpoints").glob("*")
        return tuple(sorted(step for file in files if (step := step_of(file)) is not None))

    def checkpoint(self, step: int | str = "last") -> Checkpoint:
        """The checkpoint of a step, the `"first"` or the `"last"`.

        Raises:
            KeyError: There is none at this step; says which there are.
            RefusedFile: The file is damaged or not a checkpoint of this experiment.
        """
        steps = self.steps
        newest = bool(steps) and step in ("last", steps[-1])
        if step in ("first", "last"):
            if not steps:
                raise KeyError(f"{self.path} has no checkpoint yet")
            step = steps[0] if step == "first" else steps[-1]
        if step not in steps:
            raise KeyError(
                f"{self.path}: no checkpoint at step {step!r:.80}; expected first, last or one of ({shortened(steps)})"
            )
        path = self.checkpoint_path(int(step))
        try:
            checkpoint = Checkpoint.open(path)
        except RefusedFile as refusal:
            if not newest or len(steps) < 2:
                raise
            advice = f"without this file training would continue from step {steps[-2]} and write it again"
            raise RefusedFile(path, f"{refusal.reason}; {advice}") from refusal
        if checkpoint.step != step:
            raise RefusedFile(path, f"expected the checkpoint of step {step}, got that of {checkpoint.step}")
        return checkpoint

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.path / "checkpoints" / f"step-{step:08d}.h5"

    @property
    def finished(self) -> bool:
        """Whether the last checkpoint was saved with `last=True`, and no further epochs have been asked for since."""
        last = self.checkpoint("last") if self.steps else None
        return bool(last and last.attributes.get("finished") and not last.experiment.shortens(self.experiment))

    @property
    def metrics(self) -> xr.Dataset:
        """All metrics of the run so far: dimension `step` for what is recorded at every step.

        Series recorded at other steps have a dimension of their own, `<first name>_step`, shared by those recorded
        together. Those named `train_…` are over as many training examples as their attribute `examples`
        says, or all. Reads each file's segment once, a few kilobytes of it.
        """
        series = self.all_series()
        with contextlib.suppress(KeyError, FileNotFoundError, RefusedFile):
            return as_dataset(series, examples=self.checkpoint("last").attributes["evaluated_examples"])
        return as_dataset(series)

    def all_series(self) -> dict[str, Series]:
        """All metrics of the run so far, by name: steps and values."""
        return join(self._all_segments())

    def _all_segments(self) -> list[dict[str, Series]]:
        """Segments of the checkpoints there are and of those that were dropped, while files may come and go.

        A dropped checkpoint's metrics are in a file of `metrics/` before it goes. So checkpoints are listed first, and
        if one of the files listed is gone by the end, it is looked for again where it went.
        """
        while True:
            files = [*map(self.checkpoint_path, self.steps), *self._metrics_files()]
            try:
                segments = [self._segment(file) for file in files]
            except FileNotFoundError:
                continue
            if all(file.exists() for file in files):
                return segments

    def _metrics_files(self) -> list[Path]:
        return sorted(file for file in (self.path / "metrics").glob("to-*.h5") if METRICS_FILE.fullmatch(file.name))

    def _segment(self, file: Path) -> dict[str, Series]:
        if file.parent.name == "metrics":  # this one is replaced by one that says more
            return read_metrics_file(file)
        written = file.stat().st_mtime_ns  # so is that of a step whose evaluation an interruption put off
        if file not in self._segments or self._segments[file][0] != written:
            self._segments[file] = written, read_segment(file)
        return self._segments[file][1]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the run's only writer for the length of a block; `RunInUse` if somebody else is.

        What processes that died have left half-written is deleted first; what others are writing stays.
        """
        with writing(self.path):
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        for name in ("", "checkpoints", "metrics", "analyses"):
            remove_leftovers(self.path / name)

    @property
    def analysis_files(self) -> tuple[Path, ...]:
        """The files of the run's analyses there are now, sorted; none that is still being written."""
        files = sorted((self.path / "analyses").glob("*.h5"))
        return tuple(file for file in files if file.is_file() and not file.name.startswith("."))

    def contents(
        self,
        step: int,
        *,
        model: nn.Module,
        momentum: Sequence[Tensor] | None,
        state: Mapping[str, Tree],
        metrics: Mapping[str, Series],
        last: bool = False,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> dict[str, Any]:
        """What the checkpoint of `step` will hold; refers to the tensors given and copies nothing.

        Args:
            step: Optimizer steps taken.
            model: In its clean weights.
            momentum: The base's first moment, in the order of the model's trainable parameters, or None.
            state: Everything else a resumed run needs, by group name.
            metrics: Steps and values of each series since the previous checkpoint.
            last: The experiment is complete.
            attributes: Further strings and numbers.
        """
        weights = model_tensors(model)
        return {
            "step": step,
            "parameters": weights["parameters"],
            "momentum": None if momentum is None else dict(zip(weights["parameters"], momentum, strict=True)),
            "buffers": weights["buffers"],
            "state": {**state, "frozen": weights["frozen"]},
            "metrics": metrics,
            "attributes": {
                "experiment": self.experiment.to_toml(),
                "finished": last,
                **provenance(),
                **(attributes or {}),
            },
        }

    def write(self, contents: Mapping[str, Any]) -> Checkpoint:
        """Write a checkpoint; it is on the disk when this returns.

        Raises:
            ValueError: Something cannot be stored; names the place.
            OSError: The disk is full or the folder is not writable; what was there stays.
        """
        path = self.checkpoint_path(contents["step"])
        write_checkpoint(path, **contents)
        return Checkpoint.open(path)

    def save(self, step: int, **contents: Any) -> Checkpoint:
        """`write(contents(step, ...))`."""
        return self.write(self.contents(step, **contents))

    def writer(self, retention: Retention | None = None) -> BackgroundWriter:
        """A writer for a `with` block: `writer.submit(run.contents(...))` copies, the rest happens behind the training.

        After each checkpoint those that `retention` does not want are dropped.
        """

        def write(contents: Mapping[str, Any]) -> None:
            self.write(contents)
            self.thin(retention or Retention())

        return BackgroundWriter(write)

    def thin(self, retention: Retention) -> None:
        """Drop the checkpoints that `retention` does not keep; their metrics stay, in one file in `metrics/`."""
        steps = self.steps
        dropped = sorted(set(steps) - retention.kept(steps, self._value))
        if not dropped:
            return
        folder = self.path / "metrics"
        folder.mkdir(exist_ok=True)
        older = self._metrics_files()
        checkpoints = [self.checkpoint_path(step) for step in dropped]
        newest = max([dropped[-1], *(int(file.stem.removeprefix("to-")) for file in older)])
        target = folder / f"to-{newest:08d}.h5"
        write_metrics_file(target, join(self._segment(file) for file in [*older, *checkpoints]))
        for file in [*checkpoints, *(file for file in older if file != target)]:
            file.unlink()
            self._segments.pop(file, None)

    def _value(self, metric: str, step: int) -> float | None:
        """What the checkpoint of `step` says of `metric` at that step."""
        found = self._segment(self.checkpoint_path(step)).get(metric)
        return float(found[1][-1]) if found and len(found[0]) and found[0][-1] == step else None
