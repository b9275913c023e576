"""A run is a folder of immutable files; a checkpoint is one of them, with everything needed to ask questions of it.

    runs/<name>/experiment.toml                    what was asked for
                checkpoints/step-00001200.h5       see checkpoint_file.py
                analyses/*.h5

    run = Run.open("runs/msam")
    run.metrics.loss                               one Dataset over all segments
    run.checkpoint("last").objective("test")()     the test loss at the clean weights

Both are lazy: a file is opened for the one thing asked of it and closed again. Files appear whole under their name or
not at all, so reading is safe while training writes, needs no lock and no write access.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xarray as xr
from torch import Tensor, nn

from landscape.atomic_file import remove_leftovers, write_text
from landscape.checkpoint_file import Attribute, CheckpointContents, read_checkpoint, write_checkpoint
from landscape.metric_series import Series, as_dataset, join
from landscape.provenance import provenance
from landscape.refused_file import RefusedFile
from landscape.run_lock import writing
from landscape.tree_codec import Tree

if TYPE_CHECKING:
    from landscape.data import Data
    from landscape.experiment import Experiment
    from landscape.objective import Objective

_CHECKPOINT = re.compile(r"step-(\d{8,})\.h5")
_BATCH = 1024


class Run:
    """A folder with one experiment, its checkpoints and its analyses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._segments: dict[int, dict[str, Series]] = {}  # immutable files: a segment once read stays right

    @classmethod
    def create(cls, directory: str | Path, experiment: Experiment) -> Run:
        """The run of `experiment` in `directory`: a new one, or the one that is already there.

        Raises:
            ValueError: The folder holds another experiment, or files that are no run.
        """
        path = Path(directory)
        file = path / "experiment.toml"
        if not file.exists():
            if path.is_dir() and any(path.iterdir()):
                raise ValueError(f"{path}: expected a new or an empty folder or a run, got a folder with other files")
            path.mkdir(parents=True, exist_ok=True)
            with writing(path):
                if not file.exists():  # two that create the same run at once agree on one of them
                    (path / "checkpoints").mkdir(exist_ok=True)
                    (path / "analyses").mkdir(exist_ok=True)
                    write_text(file, experiment.to_toml())
        run = cls.open(path)
        if run.experiment != experiment:
            raise ValueError(
                f"{path} holds another experiment ({_difference(file.read_text(), experiment.to_toml())}); "
                "choose another folder, or repeat that experiment"
            )
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in the folder `path`; FileNotFoundError where there is none."""
        path = Path(path)
        if not (path / "experiment.toml").is_file():
            raise FileNotFoundError(f"{path}: expected the folder of a run, found no experiment.toml in it")
        return cls(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def experiment(self) -> Experiment:
        """What the run was asked to do."""
        return _experiment(self.path / "experiment.toml", (self.path / "experiment.toml").read_text())

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints there are now, rising."""
        folder = self.path / "checkpoints"
        names = (_CHECKPOINT.fullmatch(file.name) for file in folder.iterdir()) if folder.is_dir() else ()
        return tuple(sorted(int(name[1]) for name in names if name))

    def checkpoint(self, step: int | str = "last") -> Checkpoint:
        """The checkpoint of a step, the `"first"` or the `"last"`.

        Raises:
            KeyError: There is none at this step; says which there are.
            RefusedFile: The file is damaged or not a checkpoint of this experiment.
        """
        steps = self.steps
        if step in ("first", "last"):
            if not steps:
                raise KeyError(f"{self.path} has no checkpoint yet")
            step = steps[0] if step == "first" else steps[-1]
        if step not in steps:
            raise KeyError(f"{self.path}: no checkpoint at step {step!r}; expected first, last or one of {steps}")
        checkpoint = Checkpoint.open(self.checkpoint_path(int(step)))
        if checkpoint.step != step:
            raise RefusedFile(checkpoint.path, f"expected the checkpoint of step {step}, got that of {checkpoint.step}")
        return checkpoint

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.path / "checkpoints" / f"step-{step:08d}.h5"

    @property
    def finished(self) -> bool:
        """Whether the last checkpoint was saved with `last=True`."""
        return bool(self.steps) and bool(self.checkpoint("last").attributes.get("finished", False))

    @property
    def metrics(self) -> xr.Dataset:
        """All metrics of the run so far: dimension `step` for what is recorded at every step.

        Series recorded at other steps have a dimension of their own, `<first name>_step`, shared by those recorded
        together. Reads each checkpoint's segment once, a few kilobytes a file.
        """
        for step in self.steps:
            if step not in self._segments:
                self._segments[step] = self.checkpoint(step).metrics
        return as_dataset(join(self._segments[step] for step in sorted(self._segments)))

    def writing(self) -> AbstractContextManager[None]:
        """Be the run's only writer for the length of a block; `RunInUse` if somebody else is."""
        return writing(self.path)

    def save(
        self,
        step: int,
        *,
        model: nn.Module,
        momentum: Sequence[Tensor] | None,
        state: Mapping[str, Tree],
        metrics: Mapping[str, Series],
        last: bool = False,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Checkpoint:
        """Write the checkpoint of `step`; it is on the disk when this returns.

        Args:
            step: Optimizer steps taken.
            model: In its clean weights.
            momentum: The base's first moment, in the order of the model's trainable parameters, or None.
            state: Everything else a resumed run needs, by group name.
            metrics: Steps and values of each series since the previous checkpoint.
            last: The experiment is complete.
            attributes: Further strings and numbers.

        Raises:
            ValueError: Something cannot be stored; names the place.
            OSError: The disk is full or the folder is not writable; what was there stays.
        """
        path = self.checkpoint_path(step)
        weights = model_tensors(model)
        write_checkpoint(
            path,
            step=step,
            parameters=weights["parameters"],
            momentum=None if momentum is None else dict(zip(weights["parameters"], momentum, strict=True)),
            buffers=weights["buffers"],
            state={**state, "frozen": weights["frozen"]},
            metrics=metrics,
            attributes={
                "experiment": self.experiment.to_toml(),
                "finished": last,
                **provenance(),
                **(attributes or {}),
            },
        )
        return Checkpoint.open(path)

    def remove_leftovers(self) -> None:
        """Delete half-written files of a process that died; only within `writing()`."""
        remove_leftovers(self.path / "checkpoints")
        remove_leftovers(self.path)


class Checkpoint:
    """One step of a run: clean weights, momentum, buffers, state, and the model, data and loss that belong to them.

    Every tensor is fresh at each access and lies on the CPU.
    """

    def __init__(self, contents: CheckpointContents) -> None:
        self._contents = contents

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in a file, wherever it lies; it needs no run around it."""
        return cls(read_checkpoint(path))

    def __repr__(self) -> str:
        return f"Checkpoint.open({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The file."""
        return self._contents.path

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._contents.step

    @property
    def attributes(self) -> dict[str, Attribute]:
        """Experiment, versions, host, device, times and what else the writer noted."""
        return dict(self._contents.attributes)

    @cached_property
    def experiment(self) -> Experiment:
        """What the run was asked to do."""
        return _experiment(self.path, str(self._contents.attributes.get("experiment", "")))

    @property
    def theta(self) -> Tensor:
        """Clean weights (n,), in the order of `ParameterSpace.of(self.model())`."""
        return _flat(self._contents.parameters)

    @property
    def momentum(self) -> Tensor | None:
        """The base optimizer's first moment (n,) in the same coordinates; None where it has none."""
        momentum = self._contents.momentum
        return None if momentum is None else _flat(momentum)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Clean weights by name."""
        return self._contents.parameters

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers by name."""
        return self._contents.buffers

    @property
    def metrics(self) -> dict[str, Series]:
        """Steps and values of each series since the previous checkpoint."""
        return self._contents.metrics

    def state(self, group: str) -> Tree:
        """A state tree (`optimizer`, `rng`, `data`, …) as it was saved, equal to the bit."""
        return self._contents.state(group)

    def verify(self) -> None:
        """Read and check all of the file; `RefusedFile` if it is not as it was written."""
        self._contents.verify()

    def data(self) -> Data:
        """The experiment's data, label noise included."""
        from landscape import data

        return data.load(self.experiment)

    def model(self) -> nn.Module:
        """The experiment's network with this checkpoint's weights and buffers, on the CPU."""
        return self._model(self.data())

    def load_into(self, model: nn.Module) -> None:
        """Copy weights and buffers into `model`, where it is; `ValueError` if it is not the model they come from."""
        saved = {"parameters": self.parameters, "buffers": self.buffers, "frozen": self.state("frozen")}
        for group, tensors in model_tensors(model).items():
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            found = {name: tuple(tensor.shape) for name, tensor in saved[group].items()}
            if shapes != found:
                wrong = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
                raise ValueError(
                    f"{self.path}: expected a model with the {group} of this checkpoint, "
                    f"got another name or shape at {', '.join(wrong)}"
                )
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(saved[group][name])

    def objective(
        self,
        split: str = "train",
        *,
        examples: int | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Objective:
        """The experiment's mean loss over a split, at this checkpoint's weights and buffers.

        `examples` takes the first N of one fixed permutation of the split, the same for every run and checkpoint;
        None takes all, in their own order. Batches of `batch_size`, 1024 if left out: the mean over examples does not
        depend on it, a question about single minibatches does.

        Raises:
            ValueError: No such split, or not between 1 and all examples asked for.
        """
        from landscape.objective import Objective
        from landscape.seeding import generator

        data = self.data()
        chosen = data.split(split)
        inputs, targets = chosen.inputs, chosen.targets
        if examples is not None:
            if not 1 <= examples <= len(targets):
                raise ValueError(f"examples: expected 1 to {len(targets)} of the {split} split, got {examples}")
            index = torch.randperm(len(targets), generator=generator(0, f"examples of {split}"))[:examples]
            inputs, targets = inputs[index], targets[index]
        size = batch_size or _BATCH
        batches = list(zip(inputs.split(size), targets.split(size), strict=True))
        return Objective(self._model(data), self.experiment.loss_fn(), batches, device=device, dtype=dtype)

    def _model(self, data: Data) -> nn.Module:
        from landscape import models

        model = models.build(self.experiment, data)
        self.load_into(model)
        return model


def model_tensors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint keeps of a model: `parameters` (trainable), `frozen` parameters and `buffers`, by name.

    A tensor with several names comes once, under the first, as in `ParameterSpace`.
    """
    parameters = dict(model.named_parameters())
    return {
        "parameters": {name: p for name, p in parameters.items() if p.requires_grad},
        "frozen": {name: p for name, p in parameters.items() if not p.requires_grad},
        "buffers": dict(model.named_buffers()),
    }


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def _experiment(path: Path, text: str) -> Experiment:
    from landscape.experiment import Experiment

    try:
        return Experiment.from_toml(text)
    except ValueError as error:
        raise RefusedFile(path, f"its experiment is not one that this release understands: {error}") from error


def _difference(there: str, here: str) -> str:
    """The settings that differ, as `its lr = 0.1, here lr = 0.2`."""
    a, b = (dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line) for text in (there, here))
    different = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return ", ".join(f"{key} = {a.get(key, 'unset')} there, {b.get(key, 'unset')} here" for key in different)
