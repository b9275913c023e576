"""What a number from an objective is a number of, in words and figures, for the attributes of files."""

from __future__ import annotations

from landscape.objective.loss_of_theta import LossOfTheta
from landscape.tf32 import tf32_in_use


def description_of(objective: LossOfTheta, *, batches: int, processes: int) -> dict[str, str | int | float | bool]:
    """Loss, model, mode, data and arithmetic of `objective`, whose data are `batches` over all its `processes`."""
    function = objective.function
    return {
        "loss": function.loss_name,
        "model": type(objective.model).__name__,
        "mode": function.mode,
        "batch_norm": function.batch_norm,
        "weight_decay": "not included",
        "examples": objective.examples,
        **({} if objective.population is None else {"examples_in_all": objective.population}),
        "mean_over": objective.weight,
        "batches": batches,
        "parameters": objective.size,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "device": str(objective.device),
        "autocast": str(function.autocast or "off").removeprefix("torch."),
        "tf32": tf32_in_use(objective.device),
        "processes": processes,
    }
