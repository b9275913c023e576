"""What changes while an experiment runs, and how: model, optimizer, schedule, step, metrics, and the state of all in a
checkpoint.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

import optimizers
from landscape import data, distributed, models, running_statistics, tasks
from landscape.experiment import Experiment
from landscape.runs.checkpoint import EVALUATION, Checkpoint
from landscape.runs.named_vectors import in_order_of_model, parameter_order
from landscape.runs.run import Run
from landscape.seeding import generator, global_state, set_global_state
from landscape.shared_examples import equal_batches, evaluated_examples
from landscape.tasks.checks import ROWS, require_mean
from landscape.tf32 import tf32_in_use
from landscape.training import probes
from landscape.training.autocast import Autocast
from landscape.training.bases import build_base
from landscape.training.evaluation import SPLITS, measure
from landscape.training.interruption import Interruption
from landscape.training.methods import described
from landscape.training.recorder import Recorder
from landscape.training.schedule import build_schedule
from landscape.training.storable import require_storable


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; everything up to the last checkpoint is on disk."""


class Training:
    """All that changes while an experiment runs: model, optimizer, schedule, step, metrics.

    Batches are resident tensors. The order of epoch e is the random stream ("data order", e), so the position in the
    data is a function of the step alone. A method's options that follow the length of the training (`lengths` of its
    registration) follow this one's where the experiment does not say them; with `continued` they are that checkpoint's.
    """

    def __init__(
        self, experiment: Experiment, device: torch.device | None = None, *, continued: Checkpoint | None = None
    ) -> None:
        self.experiment = experiment
        self.device = device or torch.device(experiment.device)
        loaded = data.load(experiment)
        self.flip_rate = loaded.flip_rate
        self.train = loaded.train.to(self.device, experiment.dtype)
        self.test = loaded.test.to(self.device, experiment.dtype)
        self.evaluated = evaluated_examples(experiment.evaluation_examples, len(self.train)).to(self.device)
        self.model = models.build(experiment, loaded).to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.network = Autocast(self.model, self.device) if experiment.precision == "bf16" else self.model
        self.loss = tasks.TaskLoss(tasks.build(experiment)).to(self.device)
        base = build_base(experiment, self.model)
        base.register_step_pre_hook(self._before_descent)
        self.steps_per_epoch = -(-len(self.train) // experiment.batch_size)
        self.steps = experiment.epochs * self.steps_per_epoch
        self.lengths = self._lengths(continued)
        hyperparameters = experiment.optimizer_options | ({} if experiment.rho is None else {"rho": experiment.rho})
        self.optimizer = optimizers.create(experiment.optimizer, base, **self.lengths, **hyperparameters)
        self.schedule = build_schedule(experiment, self.optimizer, self.steps_per_epoch)
        self.recorder = Recorder()
        self.agree_every = 1 if distributed.world_size() == 1 else 16  # steps; to agree on a stop costs a message
        self.step = 0
        self.seconds = 0.0
        self.statistics: running_statistics.Statistics | None = None  # BatchNorm's, if this step has been evaluated

    def _lengths(self, continued: Checkpoint | None) -> dict[str, int]:
        """The method's options that the length of the training decides, in steps."""
        epochs = described(self.experiment.optimizer).lengths
        asked = {name: epochs[name] for name in epochs if name not in self.experiment.optimizer_options}
        if continued is not None:  # one of an older release has none, and goes on as it began
            found = {name: continued.attributes.get(f"optimizer_{name}") for name in asked}
            return {name: int(steps) for name, steps in found.items() if isinstance(steps, int)}
        return {
            name: self.steps if math.isinf(count) else round(count * self.steps_per_epoch)
            for name, count in asked.items()
        }

    def _before_descent(self, base: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Note the norm of the gradient that the base is about to use, then clip it."""
        gradients = [p.grad for group in base.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.recorder.record(self.step, gradient_norm=norm)
        if self.experiment.clip_gradient:
            torch._foreach_mul_(gradients, (self.experiment.clip_gradient / (norm + 1e-6)).clamp(max=1.0))

    def batches_of_epoch(self, epoch: int) -> list[Tensor]:
        """The indices of each batch, shuffled; the last may be smaller."""
        order = torch.randperm(len(self.train), generator=generator(self.experiment.seed, "data order", epoch))
        return list(order.to(self.device).split(self.experiment.batch_size))

    def rehearse(self, run: Run) -> None:
        """Try what is to come, up to a checkpoint in memory: two steps, and one on an epoch's last batch if it is smaller.

        Afterwards this training is of no use; make another. Raises what the steps or the writing would raise.
        """
        batches = self.batches_of_epoch(0)
        self.model.train()
        self._check_task(batches[0])
        smaller = [last for last in batches[2:][-1:] if len(last) < len(batches[0])]
        for index in [batches[0], batches[min(1, len(batches) - 1)], *smaller][: self.steps]:
            self._advance(index)
            if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
                break  # too high a rate is for the training itself to find, with the number of the step
        contents = self.contents(run)  # by every process: it gathers
        if distributed.rank() == 0:
            require_storable(contents)

    def _check_task(self, index: Tensor) -> None:
        """See that the task fits the data and what the model returns, and that its loss is the mean it says."""
        batch = self.train[index[:ROWS]]
        with torch.no_grad():
            prediction = self.loss.prediction(self._closure(batch).forward())
        for name in SPLITS:
            try:
                self.loss.task.check(prediction, self.train.targets if name == "train" else self.test.targets)
            except ValueError as error:
                raise ValueError(f"task {self.experiment.task!r}, {name} split: {error}") from error
        if self.loss.torch_loss is None:
            require_mean(self.loss.task, prediction, batch.targets)

    def _closure(self, batch: data.Split) -> optimizers.BatchClosure:
        return optimizers.BatchClosure(self.network, self.loss, *batch.parts, count=self.loss.weighs)

    def take_step(self, index: Tensor) -> None:
        """One step of the method on the examples in `index`, with the probes where they are due."""
        self._advance(index)

    def _advance(self, index: Tensor) -> None:
        """One step of the method on the examples in `index`, with the probes where they are due.

        Each process takes its share of them, in micro-batches where asked; the gradients add up to the batch's mean.
        """
        whole = self._closure(self.train[index])
        if self.experiment.probe_every and self.step % self.experiment.probe_every == 0:
            radii = self.experiment.probe_rho_sam, self.experiment.probe_rho_msam
            numbers = probes.probe(self.model, lambda: whole.evaluate()[1], self.optimizer, *radii)
            self.recorder.record(self.step, **numbers)
        size = self.experiment.micro_batch_size or len(index)

        def in_parts() -> Tensor:
            self.optimizer.zero_grad()
            total = torch.zeros((), device=self.device, dtype=self.experiment.dtype)
            for chosen in distributed.share(torch.arange(len(index), device=self.device)).split(size):
                part = whole.select(chosen)
                value = part.evaluate()[1] * part.share_of(whole)
                value.backward()
                total += value.detach()
            return distributed.sum_gradients(self.parameters, total)

        # methods that look into the batch (ESAM, m-SAM, second-order SAM) need all of it, and say so
        closure = whole if size >= len(index) and distributed.world_size() == 1 else in_parts
        self.recorder.record(self.step, learning_rate=self.optimizer.param_groups[0]["lr"])
        self.recorder.record(self.step, loss=self.optimizer.step(closure))
        self.schedule.step()
        self.step += 1
        self.statistics = None

    def run_epoch(self, interruption: Interruption) -> None:
        """The steps from here to the end of the epoch, or to an interruption."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        self.model.train()
        start = time.perf_counter()
        for index in self.batches_of_epoch(epoch)[position:]:
            self.take_step(index)
            if self.step % self.agree_every == 0 and distributed.any_process(interruption.requested is not None):
                break
        self._check_finite("loss")  # the one place of an epoch that waits for the device
        self.seconds += time.perf_counter() - start

    def _check_finite(self, name: str) -> None:
        steps, losses = self.recorder.fetch(name)
        bad = steps[~np.isfinite(losses)]
        if bad.size:
            raise NonFiniteLoss(
                f"{name} at step {bad[0]} is not finite; what came before the last checkpoint is kept. "
                f"Lower lr (now {self.experiment.lr}) or rho (now {self.experiment.rho}), or lengthen warmup_epochs"
            )

    @property
    def due(self) -> bool:
        """Whether an evaluation stands before the next step: the first steps of epochs, and the end."""
        return self.statistics is None and self.step % self.steps_per_epoch == 0

    @torch.no_grad()
    def evaluate(self, interruption: Interruption | None = None) -> None:
        """Loss and metrics at the clean weights, with BatchNorm's statistics gathered there: `evaluation_examples`
        training examples, the same each time, and the whole test split.

        Cost: two forward passes of those training examples, one without BatchNorm, and one of the test split. Gives up
        and records nothing where `interruption` comes meanwhile (of several processes, only all together could).
        """
        asked = interruption if distributed.world_size() == 1 else None

        def goes_on(index: Tensor) -> bool:
            return asked is None or asked.requested is None

        parts = itertools.takewhile(goes_on, equal_batches(self.evaluated))
        inputs = (self.train[part].inputs for part in parts)
        statistics = running_statistics.gather(self.model, inputs, network=self.network)
        self.model.eval()
        found: dict[str, Tensor] = {}
        with running_statistics.holding(self.model, statistics):
            whole_test = torch.arange(len(self.test), device=self.device)
            for name, split, chosen in zip(SPLITS, (self.train, self.test), (self.evaluated, whole_test), strict=True):
                measured = measure(self.network, self.loss, split, chosen, goes_on)
                found |= {f"{name}_{quantity}": value for quantity, value in measured.items()}
        if not goes_on(self.evaluated):
            return
        self.recorder.record(self.step, **found)
        self._check_finite("train_loss")  # the last step of all may have gone astray
        self.recorder.record(
            self.step, seconds=self.seconds, gradient_evaluations=float(self.optimizer.gradient_evaluations)
        )
        self.statistics = statistics

    def contents(self, run: Run) -> dict[str, Any]:
        """The checkpoint of this step: BatchNorm's own running averages, and beside them those of the evaluation."""
        moments = [m.detach() for m in optimizers.first_moment(self.optimizer)]
        return run.contents(
            self.step,
            model=self.model,
            momentum=in_order_of_model(self.model, self.optimizer, moments),
            state={
                "optimizer": self.optimizer.state_dict(),
                "parameter_order": parameter_order(self.model, self.optimizer),
                "scheduler": self.schedule.state_dict(),
                "rng": distributed.gather(global_state(self.device)),  # of each process
                "data": {
                    "epoch": self.step // self.steps_per_epoch,
                    "position": self.step % self.steps_per_epoch,
                    "effective_flip_rate": self.flip_rate,
                },
                "training": {"seconds": self.seconds, "due": self.due},
                **({EVALUATION: {"statistics": self.statistics}} if running_statistics.tracked(self.model) else {}),
            },
            metrics=self.recorder.flush(),
            last=self.step == self.steps and not self.due,
            attributes={
                "device": str(self.device),
                "processes": distributed.world_size(),
                "seed": self.experiment.seed,
                "training_seconds": self.seconds,
                "evaluated_examples": len(self.evaluated),
                "tf32": tf32_in_use(self.device),
                **{f"optimizer_{name}": steps for name, steps in self.lengths.items()},
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`, exactly as if nothing had happened."""
        checkpoint.load_into(self.model)
        self.optimizer.load_state_dict(checkpoint.state("optimizer"))
        self.schedule.load_state_dict(checkpoint.state("scheduler"))
        generators = checkpoint.state("rng")
        if len(generators) != distributed.world_size():
            warnings.warn(
                f"{checkpoint.path.name} was written by {len(generators)} processes and is continued by "
                f"{distributed.world_size()}: gradients are summed in another order and dropout draws other numbers, "
                "so the run is no longer bit-equal to an uninterrupted one",
                stacklevel=2,
            )
        if distributed.rank() < len(generators):
            set_global_state(generators[distributed.rank()], self.device)
        before, now = checkpoint.attributes.get("tf32", "convolutions"), tf32_in_use(self.device)  # torch's default
        if self.device.type == "cuda" and before != now:
            warnings.warn(
                f"{checkpoint.path.name} was computed with TF32 in {before} and is continued with TF32 in {now}: the run "
                "is no longer bit-equal to an uninterrupted one",
                stacklevel=2,
            )
        training = checkpoint.state("training")
        self.seconds = training["seconds"]
        self.step = checkpoint.step
        if training.get("due", False):  # it was written on the way out, and is written again with the evaluation
            self.recorder.resume(checkpoint.metrics)
        elif self.step % self.steps_per_epoch == 0:
            self.statistics = checkpoint.statistics or running_statistics.own(self.model)
