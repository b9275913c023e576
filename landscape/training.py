"""Training: one loop for every method, every step recorded, and a checkpoint from which it continues bit for bit.

    run = train(Experiment(optimizer="msam", rho=0.3), "runs/msam")

The same call continues an interrupted run and returns a finished one at once.
"""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optimizers
from landscape import batch_norm, data, distributed, imports, models, probes
from landscape.background_writer import BackgroundWriter
from landscape.bases import build_base
from landscape.checkpoint import Checkpoint
from landscape.experiment import Experiment
from landscape.interruption import Interrupted, Interruption
from landscape.recorder import Recorder
from landscape.retention import Retention
from landscape.run import Run
from landscape.schedule import build_schedule
from landscape.seeding import generator, global_state, isolated, set_global_state

EVALUATED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "gradient_evaluations")
EVALUATION_BATCH = 1024  # examples in one forward pass without gradients


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or NaN; everything up to the last checkpoint is on disk."""


class Autocast(nn.Module):
    """A network whose arithmetic runs under bfloat16 autocast; its weights stay as they are."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.device_type = device.type

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's outputs."""
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.network(inputs)


class Training:
    """All that changes while an experiment runs: model, optimizer, schedule, step, metrics.

    Batches are resident tensors. The order of epoch e is the random stream ("data order", e), so the position in the
    data is a function of the step alone.
    """

    def __init__(self, experiment: Experiment, device: torch.device | None = None) -> None:
        self.experiment = experiment
        self.device = device or torch.device(experiment.device)
        loaded = data.load(experiment)
        self.flip_rate = loaded.flip_rate
        self.train = loaded.train.to(self.device, experiment.dtype)
        self.test = loaded.test.to(self.device, experiment.dtype)
        self.model = models.build(experiment, loaded).to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.network = Autocast(self.model, self.device) if experiment.precision == "bf16" else self.model
        self.loss_fn = experiment.loss_fn()
        base = build_base(experiment, self.model)
        base.register_step_pre_hook(self._before_descent)
        hyperparameters = experiment.optimizer_options | ({} if experiment.rho is None else {"rho": experiment.rho})
        self.optimizer = optimizers.create(experiment.optimizer, base, **hyperparameters)
        self.steps_per_epoch = -(-len(self.train) // experiment.batch_size)
        self.steps = experiment.epochs * self.steps_per_epoch
        self.schedule = build_schedule(experiment, self.optimizer, self.steps_per_epoch)
        self.recorder = Recorder()
        self.agree_every = 1 if distributed.world_size() == 1 else 16  # steps; to agree on a stop costs a message
        self.step = 0
        self.seconds = 0.0

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss of the network's outputs, in the precision of the weights."""
        return self.loss_fn(outputs.to(self.experiment.dtype), targets)

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
        """One step of the method on the examples in `index`, with the probes where they are due.

        Each process takes its share of them, in micro-batches where asked; the gradients add up to the batch's mean.
        """
        inputs, targets = self.train.inputs[index], self.train.targets[index]
        if self.experiment.probe_every and self.step % self.experiment.probe_every == 0:
            radii = self.experiment.probe_rho_sam, self.experiment.probe_rho_msam
            numbers = probes.probe(
                self.model, lambda: self.loss_of(self.network(inputs), targets), self.optimizer, *radii
            )
            self.recorder.record(self.step, **numbers)
        whole = optimizers.BatchClosure(self.network, self.loss_of, inputs, targets)
        size = self.experiment.micro_batch_size or len(index)

        def in_parts() -> Tensor:
            self.optimizer.zero_grad()
            total = torch.zeros((), device=self.device, dtype=self.experiment.dtype)
            for part in distributed.share(torch.arange(len(index), device=self.device)).split(size):
                value = self.loss_of(self.network(inputs[part]), targets[part]) * (len(part) / len(index))
                value.backward()
                total += value.detach()
            return distributed.sum_gradients(self.parameters, total)

        # methods that look into the batch (ESAM, m-SAM, second-order SAM) need all of it, and say so
        closure = whole if size >= len(index) and distributed.world_size() == 1 else in_parts
        self.recorder.record(self.step, learning_rate=self.optimizer.param_groups[0]["lr"])
        self.recorder.record(self.step, loss=self.optimizer.step(closure))
        self.schedule.step()
        self.step += 1

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

    def _equal_batches(self) -> tuple[Tensor, ...]:
        """All training inputs in batches of one size, or of two that differ by one."""
        return self.train.inputs.tensor_split(-(-len(self.train) // EVALUATION_BATCH))

    @torch.no_grad()
    def evaluate(self) -> None:
        """Loss and accuracy on both splits at the clean weights, with BatchNorm's statistics re-estimated there."""
        batch_norm.reestimate(self.model, self._equal_batches())
        self.model.eval()
        for name, split in (("train", self.train), ("test", self.test)):
            sums = torch.zeros(2, device=self.device)
            for index in distributed.share(torch.arange(len(split), device=self.device)).split(EVALUATION_BATCH):
                targets = split.targets[index]
                outputs = self.network(split.inputs[index])
                value = self.loss_of(outputs, targets)
                sums += torch.stack([value.float() * len(index), (outputs.argmax(-1) == targets).sum()])
            (sums,) = distributed.sum_over_processes([sums])
            self.recorder.record(
                self.step, **{f"{name}_loss": sums[0] / len(split), f"{name}_accuracy": sums[1] / len(split)}
            )
        self._check_finite("train_loss")  # the last step of all may have gone astray
        self.recorder.record(
            self.step, seconds=self.seconds, gradient_evaluations=float(self.optimizer.gradient_evaluations)
        )

    def contents(self, run: Run) -> dict[str, Any]:
        """The checkpoint of this step, BatchNorm's statistics those of its weights."""
        batch_norm.reestimate(self.model, self._equal_batches())
        momentum = [m.detach() for m in optimizers.first_moment(self.optimizer)]
        return run.contents(
            self.step,
            model=self.model,
            momentum=momentum,
            state={
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.schedule.state_dict(),
                "rng": distributed.gather(global_state(self.device)),  # of each process
                "data": {
                    "epoch": self.step // self.steps_per_epoch,
                    "position": self.step % self.steps_per_epoch,
                    "effective_flip_rate": self.flip_rate,
                },
                "training": {"seconds": self.seconds},
            },
            metrics=self.recorder.flush(),
            last=self.step == self.steps,
            attributes={
                "device": str(self.device),
                "processes": distributed.world_size(),
                "seed": self.experiment.seed,
                "training_seconds": self.seconds,
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
        self.seconds = checkpoint.state("training")["seconds"]
        self.step = checkpoint.step


def train(
    experiment: Experiment, directory: str | Path, *, retention: Retention | None = None, progress: bool = True
) -> Run:
    """Run `experiment` in `directory`, or continue it there, and return the finished `Run`.

    Cost: `epochs` × (examples / batch_size) steps of the method's gradients; the probes come on top and are not counted
    as the method's. Checkpoints are written at step 0, every `checkpoint_every` epochs and at the end; the training
    waits for a copy in memory, not for the disk. `retention` says which of them stay; all if left out.

    Under `torchrun` every process takes its share of each batch and process 0 writes (`landscape.distributed`).

    Raises:
        ValueError: The folder holds another experiment, or a name or option does not exist.
        NonFiniteLoss: The loss became infinite or NaN.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written and the same call continues.
    """
    if retention is not None:
        retention.check(EVALUATED)
    with distributed.process_group(experiment.device) as device, ExitStack() as stack:
        first = distributed.rank() == 0
        if (Path(directory) / "experiment.toml").exists():
            run = Run.create(directory, experiment)
            if run.finished:
                return run
        stack.enter_context(isolated(experiment.seed, f"training of process {distributed.rank()}", device))
        training = Training(experiment, device)  # before the folder is made: a wrong option must not claim it
        if first:
            imports.remember([experiment.data, experiment.model, experiment.base])
            Run.create(directory, experiment)
        distributed.barrier()
        run = Run.create(directory, experiment)
        if first:
            stack.enter_context(run.writing())
        interruption = stack.enter_context(Interruption())
        writer = stack.enter_context(run.writer(retention)) if first else None
        _continue(training, run, writer, interruption, progress=progress and first)
        stack.close()  # what is still being written is on the disk before the other processes go on
        distributed.barrier()
        return run


def _continue(
    training: Training, run: Run, writer: BackgroundWriter | None, interruption: Interruption, *, progress: bool
) -> None:
    """From the last checkpoint, or the beginning, to the end or an interruption."""

    def save() -> None:
        contents = training.contents(run)  # by every process: it gathers
        if writer is not None:
            writer.submit(contents)

    if run.steps:
        training.restore(run.checkpoint("last"))
    else:
        training.evaluate()
        save()
    every = training.experiment.checkpoint_every * training.steps_per_epoch
    with tqdm(
        total=training.steps, initial=training.step, desc=run.path.name, unit="step", delay=2, disable=not progress
    ) as bar:
        while training.step < training.steps:
            before = training.step
            training.run_epoch(interruption)
            bar.update(training.step - before)
            stop = distributed.any_process(interruption.requested is not None)
            finished = training.step == training.steps
            if training.step % training.steps_per_epoch == 0:
                training.evaluate()
            if finished or stop or training.step % every == 0:
                save()
            if stop and not finished:
                raise Interrupted(
                    f"{interruption.requested or 'stopped'} at step {training.step} of {training.steps}: "
                    f"saved in {run.path}; the same command continues"
                )
