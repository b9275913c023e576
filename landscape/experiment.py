"""An experiment: everything that decides what a training run computes, in one frozen, typed, flat record.

It is a TOML file on disk, a set of options on the command line and a dataclass in Python, and all three are the same
thing: `Experiment.from_toml(experiment.to_toml()) == experiment`. It is a run's identity, and `digest` its name. How it is
carried out (device, micro-batches, what is recorded) is an `Execution`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from landscape import imports
from landscape.execution import Execution
from landscape.settings import Settings, apart_from, loads

IMPORTED = ("data", "task", "model", "optimizer", "base")  # the fields that may name somebody's code
CHOICES = ("policy", "metric", "rho_schedule")  # the tables whose `name` may


@apart_from(Execution, "in the Execution, train(experiment, directory, execution=Execution({}))")
@dataclass(frozen=True, kw_only=True)
class Experiment(Settings):
    """What to train, on what, with which optimizer, and for how long.

    Args:
        data: A registered data set (`landscape list data`) or `package.module:factory`.
        label_noise: Fraction of the training labels redrawn uniformly over all classes (symmetric noise). The effective
            flip rate is smaller, (1 − 1/classes) of it on average; the run's files report the exact one.
        data_options: Further keyword arguments of the data set.
        augment: Augmentations of training's batches in their order, each a table with its name (`landscape list
            augmentations`, or `package.module:Class`) and its options: `[{name = "crop", padding = 4}, {name = "flip"}]`.
            Evaluations and checkpoints' objectives have the examples as they are.
        task: What the model's outputs mean (`landscape list tasks`) or `package.module:Class`: the loss, what it is a
            mean over, and what is measured beside it.
        task_options: Keyword arguments of the task.
        model: A registered model (`landscape list models`) or `package.module:factory`.
        model_options: Keyword arguments of the model's factory.
        optimizer: A method (`landscape list optimizers`) or `package.module:Class`.
        rho: Radius of the perturbation; left out, the method's own default.
        optimizer_options: Further hyperparameters of the method; what it counts in steps may be said in epochs, as
            `warmup_epochs`.
        policy: On which steps to climb (`landscape list policies`), instead of every one: a name, or
            `package.module:Class`, and its options, as `{name = "between", start_epochs = 8}`.
        metric: What counts as far (`landscape list metrics`), instead of the Euclidean norm, likewise.
        rho_schedule: The radius during training (`landscape list schedules`), instead of `rho`, likewise.
        base: The optimizer that takes the descent step: `sgd`, `nag` (SGD with Nesterov's momentum), `adamw`, or
            `package.module:Class`.
        lr: Peak learning rate.
        momentum: Momentum of `sgd` and `nag`; AdamW has its betas in `base_options`.
        weight_decay: Weight decay, applied by the base at the clean weights.
        no_decay: Parameters without weight decay: `norm`, those of normalisation layers, by the layer's type; `bias`,
            those with `bias` in their own name.
        base_options: Further keyword arguments of the base.
        epochs: Passes over the training data. A run that is there may be given more where nothing depends on their
            number: a constant schedule, no option that follows the length of the training.
        batch_size: Examples per step; the last batch of an epoch may be smaller.
        schedule: Learning rate after the warm-up: cosine to zero, or constant.
        warmup_epochs: Length of the linear ramp from zero to `lr`.
        label_smoothing: Of the cross-entropy, torch's definition; for tasks that take it.
        clip_gradient: Largest global norm of the gradient that the base sees; 0 switches clipping off.
        precision: Of weights and arithmetic; `tf32` is `float32` but lets a GPU round the factors of products and
            convolutions to 10 bits; `bf16` keeps float32 weights and runs the model under bfloat16 autocast.
        seed: Of every random number in the run; any whole number of 64 bits, negative ones too.
    """

    noun: ClassVar[str] = "an experiment"
    bounds: ClassVar[Mapping[str, tuple[float, float | None]]] = {
        "label_noise": (0.0, 1.0),
        "label_smoothing": (0.0, 1.0),
        "momentum": (0.0, 1.0),
        "weight_decay": (0.0, None),
        "warmup_epochs": (0.0, None),
        "clip_gradient": (0.0, None),
        "lr": (0.0, None),
        "epochs": (1, None),
        "batch_size": (1, None),
    }

    data: str = "digits"
    label_noise: float = 0.0
    data_options: dict[str, Any] = field(default_factory=dict)
    augment: list[dict[str, Any]] = field(default_factory=list)
    task: str = "classification"
    task_options: dict[str, Any] = field(default_factory=dict)

    model: str = "mlp"
    model_options: dict[str, Any] = field(default_factory=dict)

    optimizer: str = "sam"
    rho: float | None = None
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    rho_schedule: dict[str, Any] = field(default_factory=dict)
    base: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    no_decay: list[Literal["norm", "bias"]] = field(default_factory=list)
    base_options: dict[str, Any] = field(default_factory=dict)

    epochs: int = 40
    batch_size: int = 64
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    clip_gradient: float = 0.0
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run could mean, naming the option, what it may be and what came."""
        super().__post_init__()
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most epochs = {self.epochs}, got {self.warmup_epochs}")
        if self.rho is not None and "rho" in self.optimizer_options:
            raise ValueError(
                f"rho: expected once, got {self.rho} and {self.optimizer_options['rho']} in optimizer_options"
            )
        if not isinstance(self.augment, list) or not all(isinstance(table, dict) for table in self.augment):
            raise ValueError(f'augment: expected a list of tables such as {{name = "flip"}}, got {self.augment!r}')
        if not isinstance(self.no_decay, list | tuple) or any(rule not in ("norm", "bias") for rule in self.no_decay):
            raise ValueError(f"no_decay: expected a list of norm and bias, got {self.no_decay!r}")
        object.__setattr__(self, "no_decay", sorted(set(self.no_decay)))  # whatever the order, one experiment
        for kind in CHOICES:
            said = getattr(self, kind)
            if said and not isinstance(said.get("name"), str):
                raise ValueError(f'{kind}: expected a table with a name, as {{name = "…"}}, got {said!r}')
        if self.rho_schedule and (self.rho is not None or "rho" in self.optimizer_options):
            raise ValueError("rho: expected either rho or rho_schedule, which sets it at every step, got both")
        imports.met(self.code)

    def shortens(self, other: Experiment) -> bool:
        """Whether this is `other` for fewer epochs, of which the schedule takes no notice."""
        return self.epochs < other.epochs and self.schedule == "constant" and self.replace(epochs=other.epochs) == other

    @property
    def code(self) -> tuple[str, ...]:
        """What the fields that may name somebody's code say."""
        return tuple(name for field in (*IMPORTED, *CHOICES, "augment") for name in self._code_of(field))

    def _code_of(self, field: str) -> tuple[str, ...]:
        said = getattr(self, field)
        if field == "augment":
            return tuple(name for table in said if isinstance(name := table.get("name"), str))
        return (str(said.get("name", "") if field in CHOICES else said),)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of weights and inputs."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @classmethod
    def from_toml(cls, text: str) -> Experiment:
        """The experiment that `text` describes; unknown keys and wrong types are refused by name."""
        for name in loads(text, cls.noun):
            if name in Execution.names():
                raise ValueError(
                    f"unknown key {name!r} in an experiment: it is of the Execution; landscape.recipe.loads reads a text "
                    "that has both"
                )
        return super().from_toml(text)

    def replace(self, **changes: Any) -> Experiment:
        """A copy with some fields changed."""
        with imports.from_file():  # what stays as it is may come from a file
            changed = dataclasses.replace(self, **changes)
        fields = [name for name in changes if name in (*IMPORTED, *CHOICES, "augment")]
        imports.met(name for field in fields for name in changed._code_of(field))
        return changed

    @property
    def digest(self) -> str:
        """The experiment's name: 16 hexadecimal digits of what decides its numbers.

        SHA-256 of the fields that differ from their defaults, as JSON with sorted keys, whole numbers without a fraction: so
        equal experiments have one digest, and a field that a later release adds leaves it alone. Defaults never change.
        """
        default = Experiment()
        chosen = {name: getattr(self, name) for name in self.names()}
        said = {name: _canonical(value) for name, value in chosen.items() if value != getattr(default, name)}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), default=str)  # of a date, its own text
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
