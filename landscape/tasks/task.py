r"""What a model's outputs mean: the loss, what it is a mean over, what is measured beside it. Nothing else in training knows.

    L = Σ_b W_b loss(outputs_b, targets_b) / Σ_b W_b        W_b = count(targets_b)

so that micro-batches, processes and evaluations add up to the mean over all the data, however uneven they are. A task is
a class with two or three of the methods below; register it with `@tasks.register`, or name it as `package.module:Class`:

    class Quantile(Task):
        "The pinball loss of one quantile."

        def __init__(self, q: float = 0.9) -> None:
            self.q = q

        def loss(self, outputs, targets):
            missed = targets - outputs
            return torch.maximum(self.q * missed, (self.q - 1) * missed).mean()

How a batch is fed is a matter of its form: a tensor as `model(x)`, a tuple as `model(*x)`, a mapping as `model(**x)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from landscape.experiment import Experiment
from landscape.named import Named
from landscape.objective.loss_average import TorchLoss
from optimizers.ground.rows import first_tensor

tasks = Named("task")

PREFERRED = ("logits", "prediction", "predictions")  # names under which models return what a loss takes


class Task:
    """The base of every task; `loss` is all that a task must say."""

    metrics: ClassVar[Mapping[str, str]] = {}
    """Names and units of what is measured beside the loss, recorded as `train_NAME` and `test_NAME`."""

    output: str = ""
    """The name, in a mapping or an object that the model returns, of what the loss takes; found if left out."""

    torch_loss: TorchLoss | None = None
    """Which of torch's losses this is, if it is one: then analyses know its Fisher matrix."""

    def prediction(self, output: Any) -> Any:
        """Of what the model returns what the loss takes: a tensor itself, or the one of a tuple, mapping or object.

        That is the entry called `output`; else the first of a tuple, `logits` or `prediction`, or the only tensor.

        Raises:
            ValueError: There is none, or several and none of these names.
        """
        found = _entry(output, self.output)
        if not isinstance(found, Tensor):
            raise ValueError(
                f"the model returns {_in_words(output)}: expected a tensor, or a tuple, mapping or object with one called "
                f"{self.output or ' or '.join(PREFERRED)}; say which in task_options (output = NAME), or give the task "
                "a `prediction` of its own"
            )
        return found

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a batch, a scalar, in the precision of the outputs; 0 where nothing counts."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its loss is")

    def count(self, targets: Any) -> int | Tensor:
        """How many terms that mean is over: rows, if not said otherwise. A tensor need not be read from the device."""
        tensor = first_tensor(targets)
        assert tensor is not None
        return len(tensor)

    def sums(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """What `measured` needs, each a sum over the batch: sums of batches are added, of processes too."""
        return {}

    def measured(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The `metrics` from the sums over all the data, `count` and `loss` (summed, not the mean) among them."""
        return {name: sums[name] / sums["count"] for name in self.metrics}

    def check(self, outputs: Any, targets: Any) -> None:
        """Raise `ValueError` where targets and outputs do not fit: `targets` are a split's, `outputs` of a few of them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def build(experiment: Experiment) -> Task:
    """The experiment's task; one that takes `label_smoothing` is given it.

    Raises:
        ValueError: There is none of that name, it is no `Task`, or does not take an option.
        PermissionError: A file names somebody's task, and nobody allowed it (`landscape.imports`).
    """
    smoothing = {"label_smoothing": experiment.label_smoothing}
    if experiment.label_smoothing and "label_smoothing" in experiment.task_options:
        raise ValueError("task_options: label_smoothing is an option of the experiment itself; say it there alone")
    task = tasks.create(experiment.task, smoothing, experiment.task_options)
    if not isinstance(task, Task):
        raise ValueError(
            f"task {experiment.task!r}: expected a landscape.tasks.Task or a factory of one, got {type(task).__name__}"
        )
    if experiment.label_smoothing and not tasks.takes(experiment.task, "label_smoothing"):
        raise ValueError(
            f"label_smoothing: expected 0, since the task {experiment.task!r} smooths no labels, "
            f"got {experiment.label_smoothing}"
        )
    return task


def _entry(output: Any, name: str) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = dict(output)
    elif isinstance(output, tuple | list) and not hasattr(output, "_fields"):
        return output[int(name)] if name.isdecimal() and int(name) < len(output) else output[0] if output else None
    else:  # a named tuple, a data class
        named = {key: getattr(output, key, None) for key in _fields(output)}
    if name:
        return named.get(name)
    for preferred in PREFERRED:
        if preferred in named:
            return named[preferred]
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    return tensors[0] if len(tensors) == 1 else None


def _fields(output: Any) -> list[str]:
    return list(getattr(output, "_fields", None) or getattr(output, "__dict__", {}))


def _in_words(output: Any) -> str:
    names = list(output) if isinstance(output, Mapping) else _fields(output)
    of = f" of {', '.join(map(str, names))}" if names else ""
    return f"{type(output).__name__}{of}"
