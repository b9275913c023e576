"""Loss landscapes of PyTorch models: experiments, training into HDF5, and the loss as a function of its parameters.

The names below are imported when they are first used, so that the command line can answer without loading torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape.execution import Execution
    from landscape.experiment import Experiment
    from landscape.objective.model_function import ModelLoss
    from landscape.objective.objective import Objective
    from landscape.runs.run import Checkpoint, Run
    from landscape.training.training import train

__all__ = ["Checkpoint", "Execution", "Experiment", "ModelLoss", "Objective", "Run", "train"]

_HOME = {
    "Checkpoint": "landscape.runs.run",
    "Execution": "landscape.execution",
    "Experiment": "landscape.experiment",
    "ModelLoss": "landscape.objective.model_function",
    "Objective": "landscape.objective.objective",
    "Run": "landscape.runs.run",
    "train": "landscape.training.training",
}


def __getattr__(name: str) -> Any:
    """Import `name` from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'landscape' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
