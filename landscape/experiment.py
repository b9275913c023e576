"""An experiment: everything that decides what a training run computes, in one frozen, typed, flat record.

It is a TOML file on disk, a set of options on the command line and a dataclass in Python, and all three are the same
thing: `Experiment.from_toml(experiment.to_toml()) == experiment`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import tomli_w
import torch
from jsonargparse import ArgumentParser, Namespace

from landscape import imports, limited_toml
from landscape.devices import device_named

EXECUTED = (  # the fields that say how it is carried out and decide no number
    "device",
    "micro_batch_size",
    "checkpoint_every",
    "probe_every",
    "probe_rho_sam",
    "probe_rho_msam",
)
IMPORTED = ("data", "model", "optimizer", "base")  # the fields that may name somebody's code


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What to train, on what, with which optimizer, for how long, and what to record.

    Args:
        data: A registered data set (`landscape list data`) or `package.module:factory`.
        label_noise: Fraction of the training labels redrawn uniformly over all classes (symmetric noise). The effective
            flip rate is smaller, (1 − 1/classes) of it on average; the run's files report the exact one.
        data_options: Further keyword arguments of the data set.
        model: A registered model (`landscape list models`) or `package.module:factory`.
        model_options: Keyword arguments of the model's factory.
        optimizer: A method (`landscape list optimizers`) or `package.module:Class`.
        rho: Radius of the perturbation; left out, the method's own default.
        optimizer_options: Further hyperparameters of the method.
        base: The optimizer that takes the descent step: `sgd`, `nag` (SGD with Nesterov's momentum), `adamw`, or
            `package.module:Class`.
        lr: Peak learning rate.
        momentum: Momentum of `sgd` and `nag`; AdamW has its betas in `base_options`.
        weight_decay: Weight decay, applied by the base at the clean weights.
        base_options: Further keyword arguments of the base.
        epochs: Passes over the training data.
        batch_size: Examples per step; the last batch of an epoch may be smaller.
        micro_batch_size: Examples per forward and backward pass, to fit memory; 0 takes the whole batch. The gradients
            add up to the batch's; BatchNorm normalises over the micro-batch.
        schedule: Learning rate after the warm-up: cosine to zero, or constant.
        warmup_epochs: Length of the linear ramp from zero to `lr`.
        label_smoothing: Of the cross-entropy, torch's definition.
        clip_gradient: Largest global norm of the gradient that the base sees; 0 switches clipping off.
        precision: Of weights and arithmetic; `tf32` is `float32` but lets a GPU round the factors of products and
            convolutions to 10 bits; `bf16` keeps float32 weights and runs the model under bfloat16 autocast.
        evaluation_examples: Training examples, the same for every run and evaluation, on which BatchNorm's statistics
            for evaluation are gathered and the training loss and accuracy measured; all where there are fewer. The test
            split is always evaluated whole. Each evaluation costs two forward passes of them, without BatchNorm one.
        checkpoint_every: Epochs between checkpoints. The first and the last point of the run are always kept.
        probe_every: Steps between the probes (L2-PSF, cosine of momentum and gradient, loss rise along the momentum);
            0 switches them off. Each costs two gradients and a loss of the whole batch, in every process, whatever the
            micro-batches, and never changes the training.
        probe_rho_sam: Radius of the probes' SAM perturbation.
        probe_rho_msam: Radius of the probes' momentum perturbation.
        seed: Of every random number in the run.
        device: Where to train: `cpu`, `cuda`, `cuda:1`, `mps`.
    """

    data: str = "digits"
    label_noise: float = 0.0
    data_options: dict[str, Any] = field(default_factory=dict)

    model: str = "mlp"
    model_options: dict[str, Any] = field(default_factory=dict)

    optimizer: str = "sam"
    rho: float | None = None
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    base: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    base_options: dict[str, Any] = field(default_factory=dict)

    epochs: int = 40
    batch_size: int = 64
    micro_batch_size: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    clip_gradient: float = 0.0
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"

    evaluation_examples: int = 10_000
    checkpoint_every: int = 10
    probe_every: int = 0
    probe_rho_sam: float = 0.05
    probe_rho_msam: float = 0.3

    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what no run could mean, naming the option, what it may be and what came."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                try:  # a tuple and the list that its file has are one experiment
                    object.__setattr__(self, f.name, tomllib.loads(tomli_w.dumps(value)))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{f.name}: expected text, numbers, truth values and lists and tables of them, got {value!r}: "
                        f"{error}"
                    ) from error
            if f.type in ("float", "float | None") and value is not None:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"{f.name}: expected a finite number, got {value!r}")
                object.__setattr__(self, f.name, float(value))  # lr=1 and lr=1.0 are one experiment
            if f.type == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{f.name}: expected a whole number, got {value!r}")
            if f.type == "int" and not -(2**63) <= value < 2**63:
                raise ValueError(f"{f.name}: expected a whole number of at most 64 bits, got {value!r}")
        for name, low, high in (
            ("label_noise", 0.0, 1.0),
            ("label_smoothing", 0.0, 1.0),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, None),
            ("warmup_epochs", 0.0, None),
            ("clip_gradient", 0.0, None),
            ("lr", 0.0, None),
            ("epochs", 1, None),
            ("batch_size", 1, None),
            ("micro_batch_size", 0, None),
            ("evaluation_examples", 2, None),
            ("checkpoint_every", 1, None),
            ("probe_every", 0, None),
            ("probe_rho_sam", 0.0, None),
            ("probe_rho_msam", 0.0, None),
        ):
            value = getattr(self, name)
            if not (low <= value and (high is None or value <= high)):
                bounds = f"at least {low}" if high is None else f"between {low} and {high}"
                raise ValueError(f"{name}: expected a number {bounds}, got {value!r}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most epochs = {self.epochs}, got {self.warmup_epochs}")
        if self.rho is not None and "rho" in self.optimizer_options:
            raise ValueError(
                f"rho: expected once, got {self.rho} and {self.optimizer_options['rho']} in optimizer_options"
            )
        device_named(self.device)
        imports.met(self.code)

    @property
    def code(self) -> tuple[str, ...]:
        """What the fields that may name somebody's code say."""
        return tuple(getattr(self, name) for name in IMPORTED)

    @property
    def digest(self) -> str:
        """Sixteen hex digits over what decides the numbers: two experiments with the same one are the same training."""
        decides = {name: value for name, value in dataclasses.asdict(self).items() if name not in EXECUTED}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of weights and inputs."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def loss_fn(self) -> torch.nn.Module:
        """The training loss: mean cross-entropy with this experiment's label smoothing, weight decay not included."""
        return torch.nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)

    def replace(self, **changes: Any) -> Experiment:
        """A copy with some fields changed."""
        with imports.from_file():  # what stays as it is may come from a file
            changed = dataclasses.replace(self, **changes)
        imports.met(value for name, value in changes.items() if name in IMPORTED)
        return changed

    def difference(self, other: Experiment, of_self: str = "there", of_other: str = "here") -> str:
        """The settings in which two experiments differ, as `lr = 0.1 there, 0.2 here`."""
        one, two = tomllib.loads(self.to_toml()), tomllib.loads(other.to_toml())
        names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        return ", ".join(f"{n} = {one.get(n, 'unset')} {of_self}, {two.get(n, 'unset')} {of_other}" for n in names)

    def to_toml(self) -> str:
        """All fields as TOML, in the order of the class; what is None is left out, since TOML has no null."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        tables = {name: value for name, value in plain.items() if isinstance(value, dict)}
        scalars = {name: value for name, value in plain.items() if not isinstance(value, dict)}
        return tomli_w.dumps(scalars | {name: value for name, value in tables.items() if value})

    @classmethod
    def from_toml(cls, text: str) -> Experiment:
        """The experiment that `text` describes; unknown keys and wrong types are refused by name."""
        try:
            values = limited_toml.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"expected an experiment as TOML, got text that is not TOML: {error}") from error
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ValueError(f"unknown key {key!r} in an experiment{hint} Known keys: {', '.join(known)}")
        parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
        hints = get_type_hints(cls)
        for f in dataclasses.fields(cls):
            parser.add_argument(f"--{f.name}", type=hints[f.name])
        try:
            checked = parser.parse_object(Namespace(**copy.deepcopy(values)))  # it writes into what it is given
        except Exception as error:
            raise ValueError(f"expected an experiment, got a value of the wrong type: {error}") from error
        # a table is taken as TOML has it: the parser would read the text "1" in it as a number
        chosen: dict[str, Any] = {k: v if isinstance(v, dict) else checked[k] for k, v in values.items()}
        with imports.from_file():
            return cls(**chosen)
