"""Training: one loop for every method, every step recorded, and a checkpoint from which it continues bit for bit.

    run = train(Experiment(optimizer="msam", rho=0.3), "runs/msam")

The same call continues an interrupted run and returns a finished one at once.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from landscape import distributed, imports, tasks
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.retention import Retention
from landscape.runs.run import Run
from landscape.seeding import isolated
from landscape.store.background_writer import BackgroundWriter
from landscape.tf32 import tf32
from landscape.training.beginning import given_back, last_of_its_experiment, rehearse
from landscape.training.evaluation import evaluated
from landscape.training.interruption import Interrupted, Interruption
from landscape.training.prolonged import prolong, prolonged
from landscape.training.state import NonFiniteLoss, Training

__all__ = ["NonFiniteLoss", "Training", "train"]


def train(
    experiment: Experiment,
    directory: str | Path,
    *,
    execution: Execution | None = None,
    retention: Retention | None = None,
    progress: bool = True,
) -> Run:
    """Run `experiment` in `directory`, or continue it there, and return the finished `Run`.

    Cost: `epochs` × (examples / batch_size) steps of the method's gradients; the probes come on top and are not counted
    as the method's. Checkpoints are written at step 0, every `checkpoint_every` epochs and at the end; the training
    waits for a copy in memory, not for the disk. `retention` says which of them stay; all if left out.

    `execution` says how; left out, as the run's last checkpoint was computed, and a new run by `Execution()`. A run may be
    continued under another one: what is then no longer bit-equal to an uninterrupted run is said in a warning and in the
    attribute `departures` of its further checkpoints, which also keep the `execution` they were computed under.

    A run that is there may be given more `epochs` where nothing depends on their number (`landscape.training.prolonged`).

    Under `torchrun` every process takes its share of each batch and process 0 writes (`landscape.distributed`).

    A new run is rehearsed: two steps, and one on an epoch's last batch if that is smaller, are tried and forgotten before
    anything is written; and a run that fails before its second checkpoint gives its folder back, unless it diverged or
    the disk is full. So the corrected call can have the same folder.

    Raises:
        ValueError: The folder holds another experiment, or a checkpoint of another than its experiment.toml; something
            depends on the number of epochs, and what; a name or option does not exist; or the first steps fail, and how.
        NonFiniteLoss: The loss became infinite or NaN.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written and the same call continues.
    """
    if retention is not None:
        retention.check(evaluated(tasks.build(experiment)))
    last, longer = None, False
    new = not (Path(directory) / "experiment.toml").exists()
    if not new:
        longer = prolonged(Run.open(directory), experiment)
        run = Run.planned(directory, experiment) if longer else Run.create(directory, experiment)
        last = last_of_its_experiment(run)
        if run.finished:
            return run
    execution = execution or (Execution() if last is None else last.execution)
    with distributed.process_group(execution.device) as device, ExitStack() as stack:
        first = distributed.rank() == 0
        distributed.barrier()  # all have looked before one of them writes
        stack.enter_context(tf32(experiment.precision == "tf32"))
        stream = f"training of process {distributed.rank()}"
        if last is None:
            with isolated(experiment.seed, stream, device):
                rehearse(lambda: Training(experiment, execution, device), Run.planned(directory, experiment))
        stack.enter_context(isolated(experiment.seed, stream, device))
        training = Training(experiment, execution, device, continued=last)
        stack.callback(training.close)
        if first:
            imports.remember(experiment.code)
            if longer:
                prolong(run, experiment)
            run = Run.create(directory, experiment)
            if new:
                stack.enter_context(given_back(run, unless=lambda error: _worth_keeping(training, error)))
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


def _worth_keeping(training: Training, error: Exception) -> bool:
    """Whether what stopped a run before its second checkpoint is no reason to ask for another experiment there."""
    return isinstance(error, Interrupted) or (training.step > 0 and isinstance(error, NonFiniteLoss | OSError))


def _continue(
    training: Training, run: Run, writer: BackgroundWriter | None, interruption: Interruption, *, progress: bool
) -> None:
    """From the last checkpoint, or the beginning, to the end or an interruption."""

    def save() -> None:
        contents = training.contents(run)  # by every process: it gathers
        if writer is not None:
            writer.submit(contents)

    saved: tuple[int, bool] | None = None  # the step of the last checkpoint, and whether its evaluation is missing
    if run.steps:
        training.restore(run.checkpoint("last"))
        saved = training.step, training.due
    every = training.execution.checkpoint_every * training.steps_per_epoch
    with tqdm(
        total=training.steps, initial=training.step, desc=run.path.name, unit="step", delay=2, disable=not progress
    ) as bar:
        while True:
            stop = distributed.any_process(interruption.requested is not None)
            if training.due and not stop:
                training.evaluate(interruption)
                stop = distributed.any_process(interruption.requested is not None)
            here = training.step, training.due
            finished = training.step == training.steps and not training.due
            again = saved is not None and saved[0] == training.step  # complete what was written on the way out
            if here != saved and (finished or stop or again or training.step % every == 0):
                save()
                saved = here
            if finished:
                return
            if stop:  # nothing but the write stands before the exit
                raise Interrupted(
                    f"{interruption.requested or 'stopped'} at step {training.step} of {training.steps}: "
                    f"saved in {run.path}; the same command continues"
                )
            before = training.step
            training.run_epoch(interruption)
            bar.update(training.step - before)
