"""From an experiment to a network: a registered factory, or anybody's by import path."""

from __future__ import annotations

import torch

from landscape.data.dataset import Data
from landscape.experiment import Experiment
from landscape.named import Named
from landscape.seeding import isolated

models = Named("model")


def build(experiment: Experiment, data: Data) -> torch.nn.Module:
    """The experiment's network on the CPU, initialised from the stream "model initialisation" of its seed.

    A factory that takes `input_shape` (the shape of one example; of inputs in parts, those of the parts) or `classes`
    is given them, if the data set has any.
    """
    given = {"input_shape": data.input_shape} | ({} if data.classes is None else {"classes": data.classes})
    with isolated(experiment.seed, "model initialisation"):
        model = models.create(experiment.model, given, experiment.model_options)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"model {experiment.model!r}: expected its factory to return a torch.nn.Module, got {type(model).__name__}"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"model {experiment.model!r}: expected at least one parameter to train, got none")
    return model.to(experiment.dtype)
