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
    side, away = optimizer._side, optimizer._side.displacement
    return {
        "method": method(optimizer),
        "state": {index[parameter]: dict(state) for parameter, state in optimizer.state.items() if state},
        "axes": {name: axis.state_dict() for name, axis in optimizer.axes.items()},
        "gradient_evaluations": optimizer.gradient_evaluations,
        "skipped_ascents": optimizer.skipped_ascents,
        "closure_free": side.closure_free,
        "training": side.training,
        "loaded": "clean" if away is None else "perturbed",
        "clean": {} if away is None else {index[p]: w for p, w in zip(away.parameters, away.clean, strict=True)},
    }


def load(optimizer: SharpnessAware, state_dict: dict[str, Any]) -> None:
    """Take a whole state dictionary, the base's part and ours; another method's is refused before anything is changed."""
    if ENTRY not in state_dict:
        raise ValueError(
            f"expected a state_dict of {type(optimizer).__name__}, got one without the entry {ENTRY!r}; "
            "the state of a base optimizer loads into .base"
        )
    saved = state_dict[ENTRY]
    if saved["method"] != method(optimizer):
        raise ValueError(
            f"expected the state of {method(optimizer)}, got that of {saved['method']}; to keep only the base "
            "optimizer's part, load it into .base"
        )
    optimizer._side.unload()
    optimizer.base.load_state_dict({key: value for key, value in state_dict.items() if key != ENTRY})
    _unpack(optimizer, saved)


def _unpack(optimizer: SharpnessAware, saved: dict[str, Any]) -> None:
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
    side = optimizer._side
    side.closure_free, side.training, side.displacement = saved["closure_free"], saved["training"], None
    if saved["loaded"] == "perturbed":
        for number, weights in saved["clean"].items():
            parameters[int(number)].copy_(weights)
        side.load(optimizer)


def method(optimizer: SharpnessAware) -> str:
    """The four choices in words, for example "Momentum × Euclidean × Always"."""
    return " × ".join(type(axis).__name__ for axis in optimizer.axes.values())


def _parameters(optimizer: SharpnessAware) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
