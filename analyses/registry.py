r"""One decorator makes a function an analysis of an `Objective` or a `Checkpoint`; its Dataset says how it was made.

    @analysis(cost="2 gradients per batch", reference="Deng et al. 2024")
    def psf(objective, *, rho=0.05, seed=0) -> xr.Dataset: ...

    @psf.figure
    def plot_psf(dataset, ax=None) -> Axes: ...

The command line, the table in the README and the contract tests find every analysis here.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import xarray as xr
from torch.optim import Optimizer

from analyses import discovery
from analyses import draws as random_draws
from analyses.attributes import as_attribute, describe, plain
from analyses.directions.momentum import momentum_of
from analyses.over_draws import drawable, over_draws, plot_draws
from analyses.second_subject import checkpoint_of, in_words, subjects_of
from analyses.subject_key import contents_of
from landscape import distributed
from landscape.objective.model_function import Mode
from landscape.objective.objective import Objective
from landscape.runs.named_vectors import VECTORS
from optimizers.ground.signatures import check_values, options_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from landscape.runs.run import Checkpoint

Plot: TypeAlias = "Callable[..., Axes]"
_REGISTRY: dict[str, Analysis] = {}
RESERVED = {  # options of every analysis
    "run", "analysis", "step", "steps", "split", "examples", "draw", "draws", "micro_batch", "autocast", "device",
    "dtype", "allow",
}  # fmt: skip


class Analysis:
    """A registered analysis: call it with an `Objective` or a `Checkpoint` and keyword options.

    A checkpoint brings its own objective (the arguments of `__call__` choose it) and, where the analysis
    takes a `momentum`, a `gradient_average` or a `previous_gradient`, its own (`checkpoint.vectors`). With an `Objective` the momentum is the optimizer itself, whose first moments
    are mapped to the model's parameters, or a vector or mapping (`analyses.directions.momentum`).

    A parameter annotated `Checkpoint` is a second subject: a checkpoint, a run (its last), or where it lies, as
    `runs/b@1200` (`analyses.second_subject`).

    What an analysis draws at random it draws from `seed`; at a checkpoint from `seed`, the run's own seed and the step
    together (`analyses.draws`), so that a mean over runs is a mean over draws too.

    The returned Dataset's attributes record the options, the data, the model's mode, the cost in gradient evaluations
    and the versions.
    """

    def __init__(
        self,
        function: Callable[..., xr.Dataset],
        *,
        cost: str,
        reference: str,
        minibatches: bool = False,
        mode: Mode = "eval",
        data_parallel: bool = False,
    ) -> None:
        self.function = function
        self.minibatches = minibatches
        self.mode = mode
        self.data_parallel = data_parallel
        self.name = function.__name__
        self.cost = cost
        self.reference = reference
        self.plot: Plot | None = None
        functools.update_wrapper(self, function)

    @property
    def origin(self) -> str:
        """How any process names it: its name, or `package.module:function` where it lies outside this package."""
        module = self.function.__module__
        return self.name if module.split(".")[0] == "analyses" else f"{module}:{self.name}"

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return inspect.getdoc(self.function).split("\n", 1)[0]  # type: ignore[union-attr]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword options and their defaults, in the order of the signature."""
        return dict(list(inspect.signature(self.function).parameters.items())[1:])

    def figure(self, plot: Plot) -> Plot:
        """Register `plot(dataset, ax=None) -> Axes` as this analysis's picture."""
        self.plot = plot
        return plot

    def draw(self, dataset: xr.Dataset, ax: Axes | None = None) -> Axes:
        """The registered picture of a Dataset of this analysis, into `ax` or a new figure."""
        if "draw" in dataset.dims:
            if drawable(dataset):
                return plot_draws(dataset, ax=ax)
            dataset = dataset.rename(draw="seed")  # the mean, and its standard error over draws
        if self.plot is None:
            raise ValueError(f"{self.name} has no picture; register one with @{self.name}.figure")
        return self.plot(dataset, ax)

    def __call__(
        self,
        subject: Objective | Checkpoint,
        *values: Any,
        split: str = "train",
        examples: int | None = None,
        draw: int = 0,
        draws: int | None = None,
        micro_batch: int | None = None,
        autocast: torch.dtype | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Run the analysis on `subject`; all other named arguments only speak of checkpoints.

        They are those of `Checkpoint.objective`: of the `split`'s data `examples` drawn at random by `draw`, `micro_batch`
        rows of a batch at once, the model under `autocast` to a dtype, on `device` in `dtype`. `draws`: so many random
        subsets one after the other, from `draw` on, and the spread over them (`analyses.over_draws`).

        `values` are options in the order of the signature.
        """
        if len(values) > len(self.options) or set(list(self.options)[: len(values)]) & set(options):
            raise TypeError(
                f"{self.name}: expected each of the options {', '.join(self.options)} once, got more values"
            )
        options |= dict(zip(self.options, values, strict=False))
        options |= {
            name: checkpoint_of(options[name]) for name in subjects_of(self.options) if options.get(name) is not None
        }
        unknown = set(options) - set(self.options)
        if unknown:
            raise TypeError(
                f"{self.name}: expected options among {', '.join(self.options)}; got {', '.join(sorted(unknown))}"
            )
        check_values(self.name, options_of(self.function), options)
        missing = [name for name, p in self.options.items() if p.default is p.empty and name not in options]
        if missing:
            raise TypeError(f"{self.name}: expected {', '.join(missing)}, which has no default; got none")
        provenance: dict[str, Any] = {}
        asked = dict(options)
        for name in subjects_of(self.options):
            if (second := options.get(name)) is not None:
                asked[name] = provenance[name] = in_words(second)
                provenance[f"{name}_experiment"] = second.experiment.to_toml()
                provenance[f"{name}_contents"] = contents_of(second.path)
        if isinstance(subject, Objective):
            if (split, examples, draw, draws, micro_batch, autocast, device, dtype) != ("train", None, 0, *[None] * 5):
                raise TypeError(
                    f"{self.name}: split, examples, draw, draws, micro_batch, autocast, device and dtype choose a checkpoint's objective; "
                    "got an Objective, which already has its data: set them where it is made"
                )
            objective = subject
        elif draws is not None:
            if examples is None:
                raise ValueError(f"draws: of which examples? expected examples beside it, got draws={draws} alone")
            own = {"micro_batch": micro_batch, "autocast": autocast, "device": device, "dtype": dtype, **options}
            ask = functools.partial(self, subject, split=split, examples=examples, **own)
            return over_draws(lambda drawn: ask(draw=drawn), draw, draws)
        else:
            chosen: dict[str, Any] = {"mode": self.mode}
            if "seed" in self.options:
                # what is recorded is the seed asked for; what it stands for at this checkpoint is drawn from
                asked["seed"] = asked.get("seed", self.options["seed"].default)
                options["seed"] = random_draws.seed_at(subject, asked["seed"], draw)
                provenance["drawn_from"] = random_draws.describe(subject, asked["seed"])
            if self.minibatches:
                # as training has them: of its size, put together at random, BatchNorm with the batch's statistics
                chosen |= {"batch_size": subject.experiment.batch_size, "shuffle": options["seed"]}
            # an analysis of single batches is computed by every process alike: right, if not faster
            parallel = self.data_parallel and distributed.world_size() > 1
            objective = subject.objective(
                split,
                examples=examples,
                draw=draw,
                micro_batch=micro_batch,
                autocast=autocast,
                device=device,
                dtype=dtype,
                data_parallel=parallel,
                **chosen,
            )
            provenance |= {
                "split": split,
                **({} if examples is None else {"draw": draw}),
                **({} if micro_batch is None else {"micro_batch": micro_batch}),
                "step": subject.step,
                "run": subject.path.parents[1].name,
                "checkpoint": subject.path.name,
                "experiment": subject.experiment.to_toml(),  # the checkpoint's own, whatever experiment.toml says today
            }
            for name in VECTORS:
                wanted = name in self.options and options.get(name) is None
                if wanted and (found := subject.vectors.get(name)) is not None:
                    options[name] = found.to(objective.theta)
                    provenance[name] = "the checkpoint's"
        if "momentum" in self.options and options.get("momentum") is not None:
            given = options["momentum"]
            options["momentum"] = momentum_of(objective, given)
            if isinstance(given, Optimizer):
                provenance["momentum"] = f"of {type(given).__name__}"
        counters = ("evaluations", "gradient_evaluations", "hessian_products")
        before = [getattr(objective, name) for name in counters]
        start = time.perf_counter()
        dataset = self.function(objective, **options)
        cost = {name: getattr(objective, name) - count for name, count in zip(counters, before, strict=True)}
        dataset.attrs = {
            "analysis": self.name,
            **({} if self.origin == self.name else {"analysis_from": self.origin}),
            "options": json.dumps(self._recorded(asked), sort_keys=True),
            **provenance,
            **describe(objective),
            **{name: float(value) for name, value in cost.items()},
            "seconds": time.perf_counter() - start,
            **{key: as_attribute(value) for key, value in dataset.attrs.items()},
        }
        return dataset

    def _recorded(self, options: dict[str, Any]) -> dict[str, Any]:
        defaults = {name: p.default for name, p in self.options.items() if p.default is not inspect.Parameter.empty}
        return {name: plain(value) for name, value in (defaults | options).items() if not callable(value)}


def analysis(
    *, cost: str, reference: str, minibatches: bool = False, mode: Mode = "eval", data_parallel: bool = False
) -> Callable[[Callable[..., xr.Dataset]], Analysis]:
    """Register a function as an analysis under its own name; `cost` and `reference` stand in the README's table.

    `minibatches` says that it asks about single batches: from a checkpoint they then have the size trained with and are
    put together at random by `seed`, and the objective is in `mode`, "batch" where the question is about the gradients
    that training takes.
    `data_parallel` says that it asks the objective about all data only, so that under `torchrun` each process can work on
    its share.
    """

    def register(function: Callable[..., xr.Dataset]) -> Analysis:
        parameters = set(inspect.signature(function).parameters)
        taken = RESERVED & parameters
        if taken:
            raise ValueError(f"{function.__name__}: {', '.join(taken)} chooses checkpoints; expected another name")
        if minibatches and "seed" not in parameters:
            raise ValueError(f"{function.__name__}: batches are drawn at random; expected an option seed")
        if function.__name__ in _REGISTRY:
            raise ValueError(f"an analysis named {function.__name__!r} exists already; give this one another name")
        _REGISTRY[function.__name__] = Analysis(
            function,
            cost=cost,
            reference=reference,
            minibatches=minibatches,
            mode=mode,
            data_parallel=data_parallel,
        )
        return _REGISTRY[function.__name__]

    return register


def available() -> tuple[str, ...]:
    """The names of all analyses in the wings and of those registered elsewhere, sorted."""
    discovery.import_wings()
    return tuple(sorted(_REGISTRY))


def get(name: str) -> Analysis:
    """The analysis called `name`, or `package.module:function`; an unknown name answers with the names that exist.

    Raises:
        ValueError: There is none, or what is there is not under `@analysis`.
        PermissionError: A file named code of another package, and nobody allowed it (`landscape.imports`).
    """
    if ":" in name:
        found = discovery.imported(name)
        if not isinstance(found, Analysis):
            raise ValueError(f"analysis {name!r}: expected a function under @analysis, got {type(found).__name__}")
        return found
    if name not in _REGISTRY:
        discovery.import_wings()
    if name not in _REGISTRY:
        raise ValueError(
            f"unknown analysis {name!r}: expected one of {', '.join(available())}, or package.module:function"
        )
    return _REGISTRY[name]
