"""The state of a sharpness-aware optimizer as a dictionary: everything that the next step depends on.

The layout is torch's, `{"state": ..., "param_groups": ...}` of the base, plus one entry "sharpness_aware": so the same
dictionary also loads into the base alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from optimizers.sharpness_aware import SharpnessAware

ENTRY = "sharpness_aware"


def pack(optimizer: SharpnessAware) -> dict[str, Any]:
    """Our own entry. While w + ε is loaded it holds the clean weights too, and says so under "loaded"."""
    index = {parameter: number for number, parameter in enumerate(_parameters(optimizer))}
    away = optimizer._displacement
    return {
        "method": method(optimizer),
        "state": {index[parameter]: dict(state) for parameter, state in optimizer.state.items() if state},
        "axes": {name: axis.state_dict() for name, axis in optimizer.axes.items()},
        "gradient_evaluations": optimizer.gradient_evaluations,
        "skipped_ascents": optimizer.skipped_ascents,
        "closure_free": optimizer._closure_free,
        "training": optimizer._training,
        "loaded": "clean" if away is None else "perturbed",
        "clean": {} if away is None else {index[p]: w for p, w in zip(away.parameters, away.clean, strict=True)},
    }


def check(optimizer: SharpnessAware, saved: dict[str, Any]) -> None:
    """Raise `ValueError` if our own entry is of another method, before anything is changed."""
    if saved["method"] != method(optimizer):
        raise ValueError(
            f"expected the state of {method(optimizer)}, got that of {saved['method']}; to keep only the base "
            "optimizer's part, load it into .base"
        )


def unpack(optimizer: SharpnessAware, saved: dict[str, Any]) -> None:
    """Take our own entry. Weights saved as "perturbed" become so again, whichever side the model's file held."""
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for number, state in saved["state"].items():
        optimizer.state[parameters[int(number)]] = {
            key: value.to(device=parameters[int(number)].device, copy=True) if isinstance(value, Tensor) else value
            for key, value in state.items()
        }
    for name, axis in optimizer.axes.items():
        axis.load_state_dict(saved["axes"][name])
    optimizer.gradient_evaluations = saved["gradient_evaluations"]
    optimizer._skipped = saved["skipped_ascents"]
    optimizer._closure_free = saved["closure_free"]
    optimizer._training = saved["training"]
    optimizer._displacement = None
    if saved["loaded"] == "perturbed":
        for number, weights in saved["clean"].items():
            parameters[int(number)].copy_(weights)
        optimizer._load()


def method(optimizer: SharpnessAware) -> str:
    """The four choices in words, for example "Momentum × Euclidean × Always"."""
    return " × ".join(type(axis).__name__ for axis in optimizer.axes.values())


def _parameters(optimizer: SharpnessAware) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
