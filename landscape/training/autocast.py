"""A network under bfloat16 autocast: its arithmetic in bfloat16 where torch thinks that safe, its weights as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Autocast(nn.Module):
    """A network whose arithmetic runs under bfloat16 autocast; its weights stay as they are."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.device_type = device.type

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The network's outputs."""
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.network(*inputs, **named)
