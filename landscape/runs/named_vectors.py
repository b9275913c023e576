r"""The vectors that an optimizer keeps beside the weights, by name and in the coordinates of θ, from a checkpoint.

    momentum            the base's first moment
    gradient_average    F-SAM's and VaSSO's running average of the gradients
    previous_gradient   S2-SAM's gradient at the perturbed weights of the step before

An optimizer's saved state numbers the parameters in the order of its groups, which need not be the model's: the file
says which name each number has (state `parameter_order`). A file of an older release does not; its groups were in the
model's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

VECTORS = ("momentum", "gradient_average", "previous_gradient")


def parameter_order(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names in `model` of the parameters of `optimizer`, in the order of its groups.

    Raises ValueError for a parameter that the model does not have.
    """
    names = {parameter: name for name, parameter in reversed(list(model.named_parameters()))}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strangers = sum(parameter not in names for parameter in order)
    if strangers:
        raise ValueError(f"expected an optimizer over the model's parameters, got {strangers} that it does not have")
    return [names[parameter] for parameter in order]


def in_order_of_model(model: nn.Module, optimizer: Optimizer, tensors: list[Tensor]) -> list[Tensor]:
    """`tensors`, one for each parameter in the order of the groups, in the order of `model`'s trainable parameters.

    A parameter that the optimizer does not step has zeros.
    """
    found = dict(zip(parameter_order(model, optimizer), tensors, strict=True))
    return [found.get(name, torch.zeros_like(p)) for name, p in model.named_parameters() if p.requires_grad]


class NamedVectors(Mapping[str, Tensor]):
    """name → (n,): those of `VECTORS` that a checkpoint has; each is read when asked for."""

    def __init__(
        self,
        momentum: Callable[[], Tensor | None],
        parameters: Callable[[], Mapping[str, Tensor]],
        state: Callable[[str], Any],
        groups: tuple[str, ...],
    ) -> None:
        self._momentum, self._parameters, self._state, self._groups = momentum, parameters, state, groups

    def __getitem__(self, name: str) -> Tensor:
        found = self._momentum() if name == "momentum" else self._of_state(name) if name in VECTORS else None
        if found is None:
            raise KeyError(f"no vector {name!r} in this checkpoint; there is {', '.join(self) or 'none'}")
        return found

    def __iter__(self) -> Iterator[str]:
        kept = {key for entry in self._entries().values() for key in entry}
        return iter([name for name in VECTORS if (self._has_momentum() if name == "momentum" else name in kept)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _has_momentum(self) -> bool:
        return self._momentum() is not None

    def _entries(self) -> Mapping[int, Mapping[str, Any]]:
        """What the method keeps, by the number of the parameter."""
        if "optimizer" not in self._groups:
            return {}
        own = self._state("optimizer").get("sharpness_aware", {})
        return {int(number): entry for number, entry in own.get("state", {}).items()}

    def _of_state(self, key: str) -> Tensor | None:
        entries = {number: entry[key] for number, entry in self._entries().items() if key in entry}
        if not entries:
            return None
        parameters = self._parameters()
        order = self._state("parameter_order") if "parameter_order" in self._groups else list(parameters)
        named = {order[number]: value for number, value in entries.items()}
        wrong = [name for name, value in named.items() if value.shape != parameters[name].shape]
        if wrong:
            raise ValueError(f"{key}: expected tensors of the parameters' shapes, got others at {', '.join(wrong[:5])}")
        return torch.cat([named.get(name, torch.zeros_like(p)).reshape(-1).to(p) for name, p in parameters.items()])
