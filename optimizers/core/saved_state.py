"""The state of a sharpness-aware optimizer as a dictionary: everything that the next step depends on.

The layout is torch's, `{"state": ..., "param_groups": ...}` of the base, plus one entry "sharpness_aware": so the same
dictionary also loads into the base alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor

from optimizers.core import one_gradient
from optimizers.core.axes import Axis
from optimizers.core.norms import shards

ENTRY = "sharpness_aware"


class Saved(one_gradient.Sided, Protocol):
    """A sharpness-aware optimizer, as its file sees it."""

    settings: ClassVar[tuple[str, ...]]

    @property
    def skipped_ascents(self) -> int:
        """How many ascents were skipped."""


def pack(optimizer: Saved) -> dict[str, Any]:
    """Our own entry. While w + ε is loaded it holds the clean weights too, and says so under "loaded"."""
    index = {parameter: number for number, parameter in enumerate(optimizer.parameters)}
    side, away = optimizer.side, optimizer.side.displacement
    return {
        "method": method(optimizer),
        "settings": settings(optimizer),
        "state": {index[parameter]: dict(state) for parameter, state in optimizer.state.items() if state},
        "axes": {name: axis.state_dict() for name, axis in optimizer.axes.items()},
        "gradient_evaluations": optimizer.gradient_evaluations,
        "skipped_ascents": optimizer.skipped_ascents,
        "closure_free": side.closure_free,
        "training": side.training,
        "climbs": side.ahead,
        "loaded": "clean" if away is None else "perturbed",
        "clean": {} if away is None else {index[p]: w for p, w in zip(away.parameters, away.clean, strict=True)},
    }


def load(optimizer: Saved, state_dict: dict[str, Any]) -> None:
    """Take a whole state dictionary, the base's part and ours. One that does not fit is refused, and nothing changes."""
    saved = _checked(optimizer, state_dict)
    base, side, parameters = optimizer.base, optimizer.side, optimizer.parameters
    held = base.state, base.param_groups, dict(optimizer.state)
    counters = {axis: axis.remembered() for axis in optimizer.axes.values()}
    try:
        base.load_state_dict({key: value for key, value in state_dict.items() if key != ENTRY})
        for name, axis in optimizer.axes.items():
            axis.load_state_dict(saved["axes"][name])
        states = {
            parameters[int(number)]: {
                key: value.to(device=parameters[int(number)].device, copy=True) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }
            for number, state in saved["state"].items()
        }
    except BaseException:
        base.state, base.param_groups = held[:2]
        for axis, values in counters.items():
            for name, value in values.items():
                setattr(axis, name, value)
        raise
    side.unload()
    optimizer.state.clear()
    optimizer.state.update(states)
    optimizer.gradient_evaluations = saved["gradient_evaluations"]
    optimizer.count_skipped_ascent(saved["skipped_ascents"] - optimizer.skipped_ascents)
    side.closure_free, side.training = saved["closure_free"], saved["training"]
    side.coming = None
    # files of older versions tell what they had decided of the next step; before those, the next step was known to climb, or is taken to
    side.ahead = saved.get("climbs", _loads(saved) if saved["closure_free"] else None)
    if saved["loaded"] == "perturbed":  # they become so again, whichever side the model's file held
        for number, weights in saved["clean"].items():
            shards([parameters[int(number)]])[0].copy_(weights)
        one_gradient.load(optimizer)


def _loads(saved: dict[str, Any]) -> bool:
    return saved["loaded"] == "perturbed" or not saved["training"]


def _checked(optimizer: Saved, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Our own entry, after all of it was found to fit."""
    if ENTRY not in state_dict:
        raise ValueError(
            f"expected a state_dict of {type(optimizer).__name__}, got one without the entry {ENTRY!r}; the state of a "
            "base optimizer loads into .base. torch.distributed.checkpoint.state_dict drops all entries but torch's own: "
            f"give it .base, and save state_dict()[{ENTRY!r}] beside that"
        )
    saved: dict[str, Any] = state_dict[ENTRY]
    if saved["method"] != method(optimizer):
        raise ValueError(
            f"expected the state of {method(optimizer)}, got that of {saved['method']}; to keep only the base "
            "optimizer's part, load it into .base"
        )
    ours, theirs = settings(optimizer), dict(saved.get("settings", {}))
    if "micro_batch" in theirs:
        theirs["m"] = theirs.pop("micro_batch")  # its name in files of older versions
    different = sorted(name for name in theirs if theirs[name] != ours.get(name))
    if different:
        raise ValueError(
            f"expected the state of {type(optimizer).__name__} with "
            f"{', '.join(f'{name} = {ours.get(name)}' for name in different)}, got "
            f"{', '.join(f'{name} = {theirs[name]}' for name in different)}; make the optimizer with the saved settings "
            "and change them after loading, or keep only the base optimizer's part: load it into .base"
        )
    for name, axis in optimizer.axes.items():
        if set(saved["axes"][name]) != set(axis.counters):
            raise ValueError(
                f"expected the counters {sorted(axis.counters)} of {type(axis).__name__}, got "
                f"{sorted(saved['axes'][name])}; was this saved by another version or method?"
            )
    parameters = optimizer.parameters
    for number, weights in saved["clean"].items():
        _check_shape(parameters, int(number), weights)
    for number in saved["state"]:
        _check_shape(parameters, int(number), None)
    return saved


def _check_shape(parameters: list[Tensor], number: int, weights: Tensor | None) -> None:
    if not 0 <= number < len(parameters):
        raise ValueError(f"expected a state of {len(parameters)} parameters, got one of parameter {number}")
    here = shards([parameters[number]])[0]
    if weights is not None and weights.shape != here.shape:
        raise ValueError(
            f"expected weights of shape {tuple(here.shape)} for parameter {number}, got {tuple(weights.shape)}; "
            "was this saved with another model?"
        )


def settings(optimizer: Saved) -> dict[str, str]:
    """What the constructor was told and no group holds, in words: a state of other settings is another training's."""
    told = {name: _word(getattr(optimizer, name)) for name in optimizer.settings}
    for role, axis in optimizer.axes.items():
        told |= _settings_of(axis, role)
    return told


def _settings_of(axis: Axis, role: str) -> dict[str, str]:
    told = {}
    for name, value in vars(axis).items():
        if name.startswith("_") or name in axis.counters or name in axis.group_defaults:
            continue
        told[f"{role}.{name}"] = _word(value)
        if isinstance(value, Axis):
            told |= _settings_of(value, f"{role}.{name}")
    return told


def _word(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    if value is None or isinstance(value, str | bool):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_word, value))})"
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def method(optimizer: Saved) -> str:
    """The four choices in words, for example "Momentum × Euclidean × Always"."""
    return " × ".join(type(axis).__name__ for axis in optimizer.axes.values())
