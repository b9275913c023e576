r"""What an analysis of a checkpoint draws at random: another draw for every run and step.

    seed at a checkpoint = hash(seed asked for, the run's own seed, the step, the draw of its data)

If all runs were measured along the same random directions, over the same groups or the same batches, then what those
happen to be would be in every run alike: the spread over runs would not show it, and a standard error over runs would
be too small (six times for the rise along random directions on digits). Runs of one seed share their draws, whatever
the method, as they share their data and initial weights: in a paired difference of two methods the draw cancels.
Imported weights, which no seed made, differ by the file that they came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from landscape.seeding import seed_of

if TYPE_CHECKING:
    from landscape.runs.checkpoint import Checkpoint


def seed_at(checkpoint: Checkpoint, seed: int, draw: int = 0) -> int:
    """The seed that `seed` stands for at this checkpoint, another one for each draw of its data."""
    source = str(checkpoint.attributes.get("imported_from", ""))
    source += f" draw {draw}" if draw else ""
    return seed_of(seed, f"analysis of seed {checkpoint.experiment.seed} {source}", checkpoint.step)


def describe(checkpoint: Checkpoint, seed: int) -> str:
    """What the random numbers were drawn from, in words."""
    return f"seed {seed}, the run's seed {checkpoint.experiment.seed}, step {checkpoint.step}"
