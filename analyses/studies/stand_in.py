"""An answer before there is a run: an analysis of a tiny network and sixteen random examples, for the names of its variables.

What has to be known before hours of training is whether an answer has the variable and the coordinates that a claim will
read. Its numbers mean nothing.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
import xarray as xr
from torch import nn

from analyses import registry
from analyses.second_subject import subjects_of, vectors_of
from analyses.studies.claim import Ask
from landscape.objective.objective import Objective
from landscape.seeding import isolated


def answer_of(ask: Ask) -> xr.Dataset | None:
    """What the ask's analysis answers about the stand-in; None where that cannot be known, as of a second checkpoint.

    Cost: the analysis, on 130 parameters.
    """
    analysis = registry.get(ask.analysis)
    if subjects_of(analysis.options):
        return None
    try:
        with isolated(0, "stand-in"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 6)).double()
            inputs, targets = torch.randn(16, 6).double(), torch.arange(16) % 6
            batches = list(zip(inputs.split(4), targets.split(4), strict=True))
            objective = Objective(model, nn.CrossEntropyLoss(), batches, mode=analysis.mode)
            given: dict[str, Any] = {name: torch.randn_like(objective.theta) for name in vectors_of(analysis.options)}
            known = {
                key: value
                for key, value in ask.options.items()
                if key in inspect.signature(analysis.function).parameters
            }
            return analysis(objective, **given, **known)
    except Exception:  # too small for what is asked, as k = 200 eigenvalues: the run itself will tell
        return None
