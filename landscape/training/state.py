"""What changes while an experiment runs, and how: model, optimizer, schedule, step, metrics, and the state of all in a
checkpoint.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import optimizers
from landscape import data, distributed, models, running_statistics, tasks
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.checkpoint import EVALUATION, Checkpoint
from landscape.runs.named_vectors import in_order_of_model, parameter_order
from landscape.runs.run import Run
from landscape.seeding import global_state, set_global_state
from landscape.shared_examples import EVALUATION_BATCH, equal_batches, evaluated_examples
from landscape.tasks.checks import ROWS, require_fit
from landscape.tf32 import tf32_in_use
from landscape.training import probes
from landscape.training.autocast import Autocast
from landscape.training.bases import build_base
from landscape.training.departures import departed
from landscape.training.evaluation import SPLITS, accumulator, measure
from landscape.training.interruption import Interruption
from landscape.training.methods import build_method
from landscape.training.recorder import Recorder
from landscape.training.schedule import build_schedule
from landscape.training.storable import require_storable


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; everything up to the last checkpoint is on disk."""


class Training:
    """All that changes while an experiment runs: model, optimizer, schedule, step, metrics.

    Batches come from the feed's source, which is a pure function of (seed, epoch, index): the position in the data is a
    function of the step alone, and what is read ahead is no state. A method's options that follow the length of the
    training (`lengths` of its registration) follow this one's where the experiment does not say them; with `continued`
    they are that checkpoint's.
    """

    def __init__(
        self,
        experiment: Experiment,
        execution: Execution | None = None,
        device: torch.device | None = None,
        *,
        continued: Checkpoint | None = None,
    ) -> None:
        self.experiment = experiment
        self.execution = execution or Execution()
        self.device = device or torch.device(self.execution.device)
        loaded = data.load(experiment)
        self.flip_rate = loaded.flip_rate
        self.feed = data.Feed(experiment, self.execution, loaded, self.device)
        self.evaluated = evaluated_examples(self.execution.evaluation_examples, self.feed.examples("train")).to(
            self.device
        )
        self.model = models.build(experiment, loaded).to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.network = Autocast(self.model, self.device) if experiment.precision == "bf16" else self.model
        self.loss = tasks.TaskLoss(tasks.build(experiment)).to(self.device)
        base = build_base(experiment, self.model)
        base.register_step_pre_hook(self._before_descent)
        self.steps_per_epoch = self.feed.source.steps_per_epoch
        self.steps = experiment.epochs * self.steps_per_epoch
        self.optimizer, self.lengths = build_method(experiment, base, self.steps_per_epoch, continued)
        self.schedule = build_schedule(experiment, self.optimizer, self.steps_per_epoch)
        self.recorder = Recorder()
        self.agree_every = 1 if distributed.world_size() == 1 else 16  # steps; to agree on a stop costs a message
        self.step = 0
        self.seconds = 0.0
        self.departures = ""  # what makes it no longer bit-equal to an uninterrupted training, one line each
        self.statistics: running_statistics.Statistics | None = None  # BatchNorm's, if this step has been evaluated

    def _closure(self, inputs: Any, targets: Any) -> optimizers.BatchClosure:
        return optimizers.BatchClosure(self.network, self.loss, inputs, targets, count=self.loss.weighs)

    def _before_descent(self, base: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Note the norm of the gradient that the base is about to use, then clip it."""
        gradients = [p.grad for group in base.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.recorder.record(self.step, gradient_norm=norm)
        if self.experiment.clip_gradient:
            torch._foreach_mul_(gradients, (self.experiment.clip_gradient / (norm + 1e-6)).clamp(max=1.0))

    def batches_of_epoch(self, epoch: int, position: int = 0) -> Iterator[data.Minibatch]:
        """The batches from `position` on, augmented: the share of this process, or all of each where there are probes."""
        share = (0, 1) if self.execution.probe_every else (distributed.rank(), distributed.world_size())
        return self.feed.batches(epoch, position, *share)

    def rehearse(self, run: Run) -> None:
        """Try what is to come, up to a checkpoint in memory: two steps, and one on an epoch's last batch if it is smaller.

        Afterwards this training is of no use; make another. Raises what the steps or the writing would raise.
        """
        self.feed.require_pure()
        last = self.steps_per_epoch - 1
        batches = list(itertools.islice(self.batches_of_epoch(0), 2))
        if last > 1 and self.feed.source.size(last) < self.feed.source.size(0):
            batches += itertools.islice(self.batches_of_epoch(0, last), 1)
        elif last == 0:
            batches *= 2
        self.model.train()
        few = self._closure(*batches[0][:2]).split(ROWS)[0]
        with torch.no_grad():
            prediction = self.loss.prediction(few.forward())
        targets = {name: self.feed.targets(name) for name in SPLITS}
        require_fit(self.loss, self.experiment.task, prediction, few.targets, targets)
        for batch in batches[: self.steps]:
            self._advance(batch)
            if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
                break  # too high a rate is for the training itself to find, with the number of the step
        contents = self.contents(run)  # by every process: it gathers
        if distributed.rank() == 0:
            require_storable(contents)

    def take_step(self, batch: data.Minibatch) -> None:
        """One step of the method on a batch, with the probes where they are due."""
        self._advance(batch)

    def _advance(self, batch: data.Minibatch) -> None:
        """In micro-batches where asked; the gradients of all processes add up to the batch's mean.

        All passes of the method see the same inputs: what is random about them was drawn when the batch was made.
        """
        examples = batch.examples
        whole = self._closure(batch.inputs, batch.targets)  # of this process's share, or of all where probes look at it
        if self.execution.probe_every and self.step % self.execution.probe_every == 0:
            radii = self.execution.probe_rho_sam, self.execution.probe_rho_msam
            numbers = probes.probe(self.model, lambda: whole.evaluate()[1], self.optimizer, *radii)
            self.recorder.record(self.step, **numbers)
        size = self.execution.micro_batch_size or examples

        def in_parts() -> Tensor:
            self.optimizer.zero_grad()
            total = torch.zeros((), device=self.device, dtype=self.experiment.dtype)
            mine = whole
            if len(whole) == examples and distributed.world_size() > 1:
                mine = whole.select(distributed.share(torch.arange(examples, device=self.device)))
            terms = self._terms(mine, examples)
            for part in mine.split(size):
                loss = part.evaluate()[1]
                value = (loss * self._share(part, terms)).to(loss.dtype)
                value.backward()
                total += value.detach()
            return distributed.sum_gradients(self.parameters, total)

        # methods that look into the batch (ESAM, m-SAM, second-order SAM) need all of it, and say so
        closure = whole if size >= examples and distributed.world_size() == 1 else in_parts
        self.recorder.record(self.step, learning_rate=self.optimizer.param_groups[0]["lr"])
        self.recorder.record(self.step, loss=self.optimizer.step(closure))
        self.schedule.step()
        self.step += 1
        self.statistics = None

    def _terms(self, mine: optimizers.BatchClosure, examples: int) -> int | Tensor:
        """Over how much the whole batch's mean is: examples, or what the shares of all processes count together."""
        if self.loss.weighs is None:
            return examples
        counted = torch.as_tensor(self.loss.weighs(mine.targets), device=self.device).to(accumulator(self.device))
        return distributed.sum_over_processes([counted])[0].clamp(min=1)

    def _share(self, part: optimizers.BatchClosure, terms: int | Tensor) -> Any:
        return len(part) / terms if self.loss.weighs is None else self.loss.weighs(part.targets) / terms

    def run_epoch(self, interruption: Interruption) -> None:
        """The steps from here to the end of the epoch, or to an interruption."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        self.model.train()
        start = time.perf_counter()
        for batch in self.batches_of_epoch(epoch, position):
            self.take_step(batch)
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
        inputs = (inputs for inputs, _ in self.feed.fixed("train", parts))
        statistics = running_statistics.gather(self.model, inputs, network=self.network)
        self.model.eval()
        found: dict[str, Tensor] = {}
        with running_statistics.holding(self.model, statistics):
            everything = torch.arange(self.feed.examples("test"), device=self.device)
            for name, chosen in zip(SPLITS, (self.evaluated, everything), strict=True):
                parts = itertools.takewhile(goes_on, distributed.share(chosen).split(EVALUATION_BATCH))
                measured = measure(self.network, self.loss, self.feed.fixed(name, parts), self.device)
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
                "execution": self.execution.to_toml(),
                **({"departures": self.departures} if self.departures else {}),
                "device": str(self.device),
                "processes": distributed.world_size(),
                "seed": self.experiment.seed,
                "training_seconds": self.seconds,
                "evaluated_examples": len(self.evaluated),
                "tf32": tf32_in_use(self.device),
                **{f"optimizer_{name}": steps for name, steps in self.lengths.items()},
            },
        )

    def close(self) -> None:
        """End the processes that read data ahead; what needs them again starts others."""
        self.feed.close()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`, exactly as if nothing had happened."""
        checkpoint.load_into(self.model)
        self.optimizer.load_state_dict(checkpoint.state("optimizer"))
        self.schedule.load_state_dict(checkpoint.state("scheduler"))
        generators = checkpoint.state("rng")
        if distributed.rank() < len(generators):
            set_global_state(generators[distributed.rank()], self.device)
        self.departures = departed(checkpoint, self.execution, self.device, self.model, len(self.evaluated))
        training = checkpoint.state("training")
        self.seconds = training["seconds"]
        self.step = checkpoint.step
        if training.get("due", False):  # it was written on the way out, and is written again with the evaluation
            self.recorder.resume(checkpoint.metrics)
        elif self.step % self.steps_per_epoch == 0:
            self.statistics = checkpoint.statistics or running_statistics.own(self.model)
