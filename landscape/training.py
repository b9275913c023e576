"""Training: one loop for every method, every step recorded, and a checkpoint from which it continues bit for bit.

    run = train(Experiment(optimizer="msam", rho=0.3), "runs/msam")

The same call continues an interrupted run and returns a finished one at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import optimizers
from landscape import batch_norm, data, models, probes
from landscape.bases import build_base
from landscape.checkpoint import Checkpoint
from landscape.experiment import Experiment
from landscape.interruption import Interrupted, Interruption
from landscape.recorder import Recorder
from landscape.retention import Retention
from landscape.run import Run
from landscape.schedule import build_schedule
from landscape.seeding import generator, global_state, isolated, set_global_state

EVALUATION_BATCH = 1024  # examples in one forward pass without gradients


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; everything up to the last checkpoint is on disk."""


class Training:
    """All that changes while an experiment runs: model, optimizer, schedule, step, metrics.

    Batches are resident tensors. The order of epoch e is the random stream ("data order", e), so the position in the
    data is a function of the step alone.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.device = torch.device(experiment.device)
        loaded = data.load(experiment)
        self.flip_rate = loaded.flip_rate
        self.train = loaded.train.to(self.device, experiment.dtype)
        self.test = loaded.test.to(self.device, experiment.dtype)
        self.model = models.build(experiment, loaded).to(self.device)
        self.loss_fn = experiment.loss_fn()
        base = build_base(experiment, self.model)
        base.register_step_pre_hook(self._before_descent)
        hyperparameters = experiment.optimizer_options | ({} if experiment.rho is None else {"rho": experiment.rho})
        self.optimizer = optimizers.create(experiment.optimizer, base, **hyperparameters)
        self.steps_per_epoch = -(-len(self.train) // experiment.batch_size)
        self.steps = experiment.epochs * self.steps_per_epoch
        self.schedule = build_schedule(experiment, self.optimizer, self.steps_per_epoch)
        self.recorder = Recorder()
        self.step = 0
        self.seconds = 0.0

    def loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean training loss of a batch, and the model's outputs."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.experiment.precision == "bf16"):
            outputs = self.model(inputs)
        return self.loss_fn(outputs.to(self.experiment.dtype), targets), outputs

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

    def take_step(self, index: Tensor) -> None:
        """One step of the method on the examples in `index`, with the probes where they are due."""
        inputs, targets = self.train.inputs[index], self.train.targets[index]
        experiment, optimizer = self.experiment, self.optimizer

        def loss() -> Tensor:
            return self.loss(inputs, targets)[0]

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        if experiment.probe_every and self.step % experiment.probe_every == 0:
            radii = experiment.probe_rho_sam, experiment.probe_rho_msam
            self.recorder.record(self.step, **probes.probe(self.model, loss, optimizer, *radii))
        self.recorder.record(self.step, learning_rate=optimizer.param_groups[0]["lr"])
        self.recorder.record(self.step, loss=optimizer.step(closure))
        self.schedule.step()
        self.step += 1

    def run_epoch(self, interruption: Interruption) -> None:
        """The steps from here to the end of the epoch, or to an interruption."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        self.model.train()
        start = time.perf_counter()
        for index in self.batches_of_epoch(epoch)[position:]:
            self.take_step(index)
            if interruption.requested:
                break
        steps, losses = self.recorder.fetch("loss")  # the one place of an epoch that waits for the device
        self.seconds += time.perf_counter() - start
        bad = steps[~np.isfinite(losses)]
        if bad.size:
            raise NonFiniteLoss(
                f"the loss at step {bad[0]} is not finite; what came before the last checkpoint is kept. "
                f"Lower lr (now {self.experiment.lr}) or rho (now {self.experiment.rho}), or lengthen warmup_epochs"
            )

    @torch.no_grad()
    def evaluate(self) -> None:
        """Loss and accuracy on both splits at the clean weights, with BatchNorm's statistics re-estimated there."""
        size = EVALUATION_BATCH
        batch_norm.reestimate(self.model, self.train.inputs.split(size))
        self.model.eval()
        for name, split in (("train", self.train), ("test", self.test)):
            loss = correct = torch.zeros((), device=self.device)
            for inputs, targets in zip(split.inputs.split(size), split.targets.split(size), strict=True):
                value, outputs = self.loss(inputs, targets)
                loss = loss + value * len(targets)
                correct = correct + (outputs.argmax(-1) == targets).sum()
            self.recorder.record(
                self.step, **{f"{name}_loss": loss / len(split), f"{name}_accuracy": correct / len(split)}
            )
        self.recorder.record(
            self.step, seconds=self.seconds, gradient_evaluations=float(self.optimizer.gradient_evaluations)
        )

    def contents(self, run: Run) -> dict[str, Any]:
        """The checkpoint of this step, BatchNorm's statistics those of its weights."""
        batch_norm.reestimate(self.model, self.train.inputs.split(EVALUATION_BATCH))
        momentum = [m.detach() for m in optimizers.first_moment(self.optimizer)]
        return run.contents(
            self.step,
            model=self.model,
            momentum=momentum,
            state={
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.schedule.state_dict(),
                "rng": global_state(self.device),
                "data": {
                    "epoch": self.step // self.steps_per_epoch,
                    "position": self.step % self.steps_per_epoch,
                    "effective_flip_rate": self.flip_rate,
                },
                "training": {"seconds": self.seconds},
            },
            metrics=self.recorder.flush(),
            last=self.step == self.steps,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`, exactly as if nothing had happened."""
        checkpoint.load_into(self.model)
        self.optimizer.load_state_dict(checkpoint.state("optimizer"))
        self.schedule.load_state_dict(checkpoint.state("scheduler"))
        set_global_state(checkpoint.state("rng"), self.device)
        self.seconds = checkpoint.state("training")["seconds"]
        self.step = checkpoint.step


def train(
    experiment: Experiment, directory: str | Path, *, retention: Retention | None = None, progress: bool = True
) -> Run:
    """Run `experiment` in `directory`, or continue it there, and return the finished `Run`.

    Cost: `epochs` × (examples / batch_size) steps of the method's gradients; the probes come on top and are not counted
    as the method's. Checkpoints are written at step 0, every `checkpoint_every` epochs and at the end; the training
    waits for a copy in memory, not for the disk. `retention` says which of them stay; all if left out.

    Raises:
        ValueError: The folder holds another experiment, or a name or option does not exist.
        NonFiniteLoss: The loss became infinite or NaN.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written and the same call continues.
    """
    run = Run.create(directory, experiment)
    if run.finished:
        return run
    with (
        run.writing(),
        isolated(experiment.seed, "training", experiment.device),
        Interruption() as interruption,
        run.writer(retention) as writer,
    ):
        training = Training(experiment)
        if run.steps:
            training.restore(run.checkpoint("last"))
        else:
            training.evaluate()
            writer.submit(training.contents(run))
        every = experiment.checkpoint_every * training.steps_per_epoch
        with tqdm(
            total=training.steps, initial=training.step, desc=run.path.name, unit="step", delay=2, disable=not progress
        ) as bar:
            while training.step < training.steps:
                before = training.step
                training.run_epoch(interruption)
                bar.update(training.step - before)
                finished = training.step == training.steps
                if training.step % training.steps_per_epoch == 0:
                    training.evaluate()
                if finished or interruption.requested or training.step % every == 0:
                    writer.submit(training.contents(run))
                if interruption.requested and not finished:
                    raise Interrupted(
                        f"{interruption.requested} at step {training.step} of {training.steps}: "
                        f"saved in {run.path}; the same command continues"
                    )
    return run
