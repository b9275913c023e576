r"""Is a loss the mean over what its batches are weighed by? Asked of losses that are not torch's and come without a count.

    ℓ(x₁ … x_r) = Σ_p r_p ℓ(part p) / r        for parts of r_p rows each

A sum over examples, a mask, class weights, ignored targets or pairs of examples break it, and the mean over uneven
batches would be another number than that of all the data in one batch.
"""

from __future__ import annotations

import itertools

import torch

from landscape.objective.batches import Batch, by_rows
from landscape.objective.loss_of_theta import LossOfTheta
from optimizers.ground.rows import rows_of

ROWS = 8  # of the first batch that a first look is taken at
ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-3}  # relative; 0.05 for lower ones, and under autocast


def require_mean(objective: LossOfTheta) -> bool:
    """Raise `ValueError`, with the cure, where the loss of a few rows is not the mean of that of their parts.

    True where it is; False where that cannot be told: inputs that do not consist of rows, BatchNorm with statistics of
    the batch. A loss of one batch alone may average as it likes, but not add up.
    """
    batch = objective.batches.head(ROWS)
    rows = batch.examples
    if (
        rows < 2
        or objective.function.batch_norm == "batch statistics"
        or not by_rows((batch.inputs, batch.targets), rows)
    ):
        return False
    ends = sorted({0, 1, rows // 2, rows})
    cuts = [slice(start, end) for start, end in itertools.pairwise(ends)]
    parts = [batch]
    for cut in cuts:
        inputs, targets = (rows_of(value, cut, rows) for value in (batch.inputs, batch.targets))
        parts.append(Batch(inputs, targets, cut.stop - cut.start))
    parameters = objective.space.unflatten(objective.theta)
    with torch.no_grad(), objective.running():
        try:
            whole, *each = torch.stack([objective.batch_loss(parameters, part) for part in parts]).double().tolist()
        except (RuntimeError, IndexError):  # a model or a loss for batches of one size: nothing can be said
            return False
    low = 0.05 if objective.function.autocast else ROUNDING.get(objective.dtype, 0.05)
    scale = low * max(map(abs, (whole, *each)))
    mean = sum((cut.stop - cut.start) * loss for cut, loss in zip(cuts, each, strict=True)) / rows
    if not abs(whole) < float("inf"):
        return False
    if abs(whole - mean) <= scale:
        return True
    if abs(whole - sum(each)) <= scale:
        raise ValueError(
            f"the loss {objective.function.loss_name} adds up over examples: expected the mean over the batch (of "
            f"{rows} examples {mean:.6g}), got {whole:.6g}; divide it by their number"
        )
    if len(objective.batches) > 1:
        raise ValueError(
            f"the loss {objective.function.loss_name} is {whole:.6g} for {rows} rows, and the mean of its parts is "
            f"{mean:.6g}: it averages over something else than rows (tokens, a mask, weights, pairs), and uneven batches "
            "would be weighed wrongly; pass count=(inputs, targets) -> int, over how many a batch averages"
        )
    return False
