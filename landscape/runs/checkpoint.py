"""One step of a run, with everything needed to ask questions of it.

checkpoint = Checkpoint.open("runs/msam/checkpoints/step-00001200.h5")
checkpoint.objective("test")()          the test loss at the clean weights
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landscape import running_statistics
from landscape.runs.checkpoint_file import Attribute, CheckpointContents, read_checkpoint
from landscape.runs.described import execution_in, experiment_in
from landscape.runs.metric_series import Series
from landscape.runs.named_vectors import NamedVectors
from landscape.shared_examples import EVALUATION_BATCH, chosen_examples
from landscape.shortened import shortened
from landscape.store.refused_file import RefusedFile
from landscape.store.tree_codec import Tree

if TYPE_CHECKING:
    from landscape.data import Data
    from landscape.execution import Execution
    from landscape.experiment import Experiment
    from landscape.objective.model_function import Mode
    from landscape.objective.objective import Objective

EVALUATION = "evaluation"
"""The state group with BatchNorm's `statistics` for evaluation, None where the step has not been evaluated."""


class Checkpoint:
    """One step of a run: clean weights, momentum, buffers, state, and the model, data and loss that belong to them.

    Every tensor is fresh at each access and lies on the CPU.
    """

    def __init__(self, contents: CheckpointContents) -> None:
        self._contents = contents
        self._statistics: running_statistics.Statistics | None = None  # what evaluations here use, once known

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
        return experiment_in(self.path, str(self._contents.attributes.get("experiment", "")))

    @cached_property
    def execution(self) -> Execution:
        """How that was carried out, since the last time that it was continued."""
        return execution_in(self.path, self._contents.attributes)

    @property
    def theta(self) -> Tensor:
        """Clean weights (n,), in the order of `ParameterSpace.of(self.model())`."""
        return self._flat(self._contents.parameters)

    @property
    def momentum(self) -> Tensor | None:
        """The base optimizer's first moment (n,) in the same coordinates; None where it has none."""
        momentum = self._contents.momentum
        return None if momentum is None else self._flat(momentum)

    @property
    def vectors(self) -> NamedVectors:
        """`momentum`, `gradient_average`, `previous_gradient` (n,) in the same coordinates, those that the file has."""
        return NamedVectors(lambda: self.momentum, lambda: self.parameters, self.state, self._contents.groups)

    def _flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in self.apart(tensors).values()])

    def apart(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The file's tensors, refused where a copy of each would be more than the file: many names may be one tensor."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self.path.stat().st_size:  # no model of ours has it so
            raise RefusedFile(self.path, f"its weights by name are {size} bytes together, more than the file has")
        return tensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trainable weights by name; reads no weights."""
        return self._contents.shapes

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Clean weights by name."""
        return self._contents.parameters

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers by name, as training has them: BatchNorm's running averages mix weights of many steps."""
        return self._contents.buffers

    @property
    def statistics(self) -> running_statistics.Statistics | None:
        """BatchNorm's statistics for evaluation, by the buffers' names, as they were gathered at these weights.

        None where the file has none, because the step was not evaluated (a run that was interrupted there).
        Empty where `buffers` are to be evaluated with as they are: without BatchNorm, imported, or of version 1.
        """
        if EVALUATION not in self._contents.groups:
            return {}
        found = self.state(EVALUATION)
        statistics = found.get("statistics") if isinstance(found, dict) else {}
        if statistics is None:
            return None
        buffers = self.buffers
        if (
            not isinstance(statistics, dict)
            or not statistics
            or any(
                not isinstance(tensor, Tensor) or name not in buffers or tensor.shape != buffers[name].shape
                for name, tensor in statistics.items()
            )
        ):
            raise RefusedFile(self.path, f"/{EVALUATION}: expected statistics in the names and shapes of the buffers")
        return statistics

    def evaluated_buffers(self) -> dict[str, Tensor]:
        """The buffers by name as an evaluation has them, which is what `model()` has."""
        if self.statistics == {}:
            return self.buffers
        return {name: buffer.detach().clone() for name, buffer in model_tensors(self.model())["buffers"].items()}

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
        _ = self.statistics

    def data(self) -> Data:
        """The experiment's data, label noise included."""
        from landscape import data

        return data.load(self.experiment)

    def model(self) -> nn.Module:
        """The experiment's network with this checkpoint's weights and buffers, on the CPU.

        BatchNorm has the statistics of the evaluation at these weights; where the run was interrupted before it, they
        are gathered now as the evaluation would (at most `evaluation_examples` forward passes, once an object).
        `load_into` gives those of training.

        This calls the factory that the experiment names, which may be any importable function. Look at `.experiment`
        before you build from a stranger's file; reading such a file runs nothing.
        """
        return self._model(self.data(), torch.device("cpu"))

    def load_into(self, model: nn.Module) -> None:
        """Copy weights and buffers, as training has them, into `model`, where it is; `ValueError` if it is not the model they come from."""
        frozen = self.state("frozen") if "frozen" in self._contents.groups else {}
        saved = {"parameters": self.parameters, "buffers": self.buffers, "frozen": frozen}
        for group, tensors in model_tensors(model).items():
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            found = {name: tuple(tensor.shape) for name, tensor in saved[group].items()}
            if shapes != found:
                wrong = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
                raise ValueError(
                    f"{self.path}: expected a model with the {group} of this checkpoint, "
                    f"got another name or shape at {shortened(wrong)}"
                )
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(saved[group][name])

    def objective(
        self,
        split: str = "train",
        *,
        examples: int | None = None,
        draw: int = 0,
        batch_size: int | None = None,
        micro_batch: int | None = None,
        autocast: torch.dtype | None = None,
        shuffle: int | None = None,
        mode: Mode = "eval",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        data_parallel: bool = False,
    ) -> Objective:
        """The loss of the experiment's task, its mean over a split without augmentation, at this checkpoint's weights.

        `examples` takes the first N of one fixed permutation of the split, the same for every run and checkpoint, another
        for every `draw`; None takes all, in their own order. Batches of `batch_size`, 1024 if left out: the mean over
        examples does not depend on it, a question about single minibatches does, and wants them put together at random,
        as training does: `shuffle` is the seed of that order, and sums over all data walk batches of 1024 where that changes
        no number (BatchNorm with the batch's statistics aside). `mode`, `micro_batch` and `autocast` as `Objective` has
        them. `data_parallel`: each process of the initialised `torch.distributed` group works on its share, all ask alike.

        Raises:
            ValueError: No such split, or not between 1 and all examples asked for.
        """
        from landscape import tasks
        from landscape.data import Feed
        from landscape.objective.objective import Objective

        loaded, loss = self.data(), tasks.TaskLoss(tasks.build(self.experiment))
        feed = Feed(self.experiment, self.execution, loaded, torch.device("cpu"), dtype)
        total = len(loaded.split(split))
        index = chosen_examples(split, total, examples=examples, draw=draw, shuffle=shuffle)
        processes = torch.distributed.get_world_size() if data_parallel else 1
        size = batch_size or min(EVALUATION_BATCH, -(-len(index) // processes))
        counted = None if loss.torch_loss else loss.count
        objective = Objective(
            self._model(loaded, torch.device(device or "cpu"), evaluated=mode != "batch"),
            loss,
            feed.walk(split, index.split(size)),
            device=device,
            dtype=dtype,
            mode=mode,
            count=counted,
            micro_batch=micro_batch,
            autocast=autocast,
            data_parallel=data_parallel,
        )
        objective.population = total
        if counted is not None:
            objective.population = sum(counted(*batch) for batch in feed.walk(split, torch.arange(total).split(size)))
        if shuffle is not None and not data_parallel and objective.function.batch_norm != "batch statistics":
            objective.batches.larger = objective.on(feed.walk(split, index.split(EVALUATION_BATCH))).batches
        objective.statistics_over = objective.on(feed.evaluated(least=processes)).batches
        return objective

    def _model(self, data: Data, device: torch.device, *, evaluated: bool = True) -> nn.Module:
        """On the CPU; what has to be gathered is gathered on `device`."""
        from landscape import models

        model = models.build(self.experiment, data)
        self.load_into(model)
        if evaluated:
            if self._statistics is None:
                self._statistics = self.statistics
            if self._statistics is None:
                self._statistics = self._gathered(model, data, device)
            running_statistics.put(model, self._statistics)
        return model

    def _gathered(self, model: nn.Module, data: Data, device: torch.device) -> running_statistics.Statistics:
        """As the training's evaluation gathers them: over the same batches, through the same autocast."""
        from landscape.data import Feed, nested

        inputs = (x for x, _ in Feed(self.experiment, self.execution, data, torch.device("cpu")).evaluated())
        with torch.autocast(device.type, torch.bfloat16, enabled=self.experiment.precision == "bf16"):
            found = running_statistics.gather(model.to(device), (nested.placed(x, device) for x in inputs))
        model.to("cpu")
        return {name: tensor.cpu() for name, tensor in found.items()}


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
