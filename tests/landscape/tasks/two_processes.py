"""Train a recipe under torchrun, told to stop before step `cut` if that is not 0: script recipe folder cut."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import task_problems  # noqa: F401  (its names are those of the recipe)

from landscape import imports, recipe
from landscape.training.interruption import Interrupted
from landscape.training.training import Training, train

asked, folder, cut = sys.argv[1], sys.argv[2], int(sys.argv[3])
experiment, execution = recipe.loads(Path(asked).read_text())
imports.allow(*experiment.code)
take = Training.take_step


def stopped(self: Training, batch: object) -> None:
    take(self, batch)
    if self.step == cut:
        self.agree_every = 1  # look now whether all are to stop
        os.kill(os.getpid(), signal.SIGTERM)


Training.take_step = stopped
with contextlib.suppress(Interrupted):
    train(experiment, folder, execution=execution, progress=False)
