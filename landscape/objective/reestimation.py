r"""An objective far from the weights that a model's BatchNorm statistics belong to: the model there, with those of there.

With the running statistics of one point, L at another is the loss of a network that nobody would use: along a path or a
plane, statistics are gathered anew at each point (Garipov et al. 2018, https://arxiv.org/abs/1802.10026, A.2).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from landscape.objective.batches import Batches
from landscape.objective.determinism import examine
from landscape.objective.loss_of_theta import LossOfTheta
from landscape.objective.model_function import ModelFunction
from landscape.running_statistics import Statistics, gathering, put, tracked


def function_at(
    objective: LossOfTheta, point: Tensor, batches: Batches, *, examples: int, processes: int
) -> ModelFunction:
    """The objective's function of a copy of the model at θ = `point`, with the statistics gathered there over `batches`."""
    parameters = objective.space.unflatten(point)
    statistics, seen = Statistics(), 0
    if objective.function.mode != "batch" and tracked(objective.model):
        examine(objective)  # which other buffers a forward pass writes
        statistics, seen = _gathered(objective, parameters, batches, -(-examples // processes))
    model = copy.deepcopy(objective.model)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in parameters.items():
            own[name].copy_(tensor)
    put(model, statistics)
    return objective.function.of(model, gathered_over=seen)


def _gathered(
    objective: LossOfTheta, parameters: dict[str, Tensor], batches: Batches, most: int
) -> tuple[Statistics, int]:
    """Every batch counts alike, as in `torch.optim.swa_utils.update_bn`; the batches of all processes together."""
    walked = seen = 0
    with objective.running(), gathering(objective.model) as statistics:
        for batch in batches.walk():
            if walked and seen + batch.examples > most:
                break
            objective.batch_loss(parameters, batch)
            objective.record(forward=batch.examples)
            walked, seen = walked + 1, seen + batch.examples
    device = objective.device
    counts = objective.reduce(torch.tensor([walked, seen], dtype=torch.float32, device=device))
    summed = {name: objective.reduce(tensor * walked) / counts[0] for name, tensor in statistics.items()}
    return {name: tensor.to(statistics[name].dtype) for name, tensor in summed.items()}, int(counts[1])
