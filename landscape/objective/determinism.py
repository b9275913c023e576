r"""Is L(θ) one function? An objective must give one value at one θ, and leave the model as it was.

Random numbers drawn in a forward pass, statistics updated by it, and batches that differ from walk to walk make
every curvature product a sample of something else; a Krylov method then converges, to nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from landscape.objective.batches import Batch
from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.mean_of_examples import ROWS, require_mean
from landscape.objective.model_state import version, written_by
from landscape.objective.repeated_walks import same


def examine(objective: LossOfTheta) -> None:
    """Once for a model and its loss: which buffers a forward pass writes, and whether the loss is a mean of examples.

    Raises `ValueError` where the forward pass draws random numbers, or where the loss adds up over examples or averages
    over something else than the batches are weighed by. Cost: up to three forward passes over eight examples of the
    first batch, which are in no counter.
    """
    function, batches = objective.function, objective.batches
    if function.written is None:
        _look(objective, lambda batch: _examine_forward_pass(objective, batch))
    if not (batches.examined or function.averages or function.torch_loss is not None or batches.counted):
        function.averages = require_mean(objective)
    batches.examined = True


def _look(objective: LossOfTheta, at: Callable[[Batch], object]) -> None:
    """Look at a few examples of the first batch, or at all of it where the model does not take a few."""
    try:
        at(objective.batches.head(ROWS))
    except (RuntimeError, IndexError, ValueError):  # a model for batches of one size, or what is really wrong
        at(next(objective.batches.walk()))


def _examine_forward_pass(objective: LossOfTheta, batch: Batch) -> None:
    model, parameters = objective.model, objective.space.unflatten(objective.theta)
    with objective.running():
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        before = {name: version(copy) for name, copy in copies.items()}
        state = _random_state(objective.device)

        def forward() -> tuple[str, ...]:
            objective.function.loss_here(batch)
            return written_by(model, copies, before)

        with torch.no_grad():
            written = objective.function.at({**parameters, **copies}, forward)
        drew = not same(state, _random_state(objective.device))
    if drew:
        raise ValueError(
            "the forward pass draws random numbers, so the loss at one θ is not one number: dropout or noise that "
            "ignores eval mode? Switch it off for the measurement"
        )
    objective.function.written = written


def require_deterministic(objective: LossOfTheta, theta: Tensor) -> None:
    """Raise `ValueError`, naming cause and cure, where two evaluations on the first batch are not one and the same.

    Exact where the cause is torch's: the generators' states and the model's buffers must not move. Anything else shows
    as two losses that differ by more than rounding. Random state and buffers are put back. Cost: two forward passes
    over one batch, and one over eight examples.
    """
    written = objective.function.written
    if written:
        raise ValueError(
            f"a forward pass changes the buffers {', '.join(written)}, so the loss depends on how often it was asked; "
            "freeze them for the measurement"
        )
    if objective.function.recomputes is None:  # to be known before the first graph is built
        with torch.enable_grad(), objective.running():
            _look(objective, functools.partial(objective.batch_loss, objective.leaves(theta)))
    batch = next(objective.batches.walk())
    with torch.no_grad(), objective.running():
        parameters = objective.space.unflatten(theta)
        losses = torch.stack([objective.batch_loss(parameters, batch) for _ in range(2)]).double().cpu()
    low = torch.finfo(
        torch.get_autocast_dtype(objective.device.type) if objective.function.autocast else objective.dtype
    ).eps
    if bool(((losses[0] - losses[1]).abs() > 100 * low * losses.abs().max()) & losses.isfinite().all()):
        raise ValueError(
            f"two evaluations of one batch at one θ gave {losses[0]:.9g} and {losses[1]:.9g}: the model or the loss is "
            "random or keeps state; switch that off for the measurement"
        )


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    state = (torch.get_rng_state(),)
    return (*state, torch.cuda.get_rng_state(device)) if device.type == "cuda" else state
