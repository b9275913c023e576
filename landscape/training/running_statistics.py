"""BatchNorm's running statistics, re-estimated at the weights that will be evaluated.

During training the running averages mix weights of many steps, and for the one-gradient methods they are gathered at
w + ε. Before an evaluation or a checkpoint they are therefore computed anew, at the clean weights, over the whole
training set (the MSAM authors do so once, after training; here it is done before every evaluation, so that learning
curves are unbiased too).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by averages over `batches` of inputs; one forward pass, nothing without BN.

    Every batch counts alike, so make them of one size.

    Only the BatchNorm layers are in training mode meanwhile, so dropout neither acts nor draws random numbers, and
    every module's mode and momentum come out as they went in.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's way of asking for the cumulative average
            layer.train()
        for inputs in batches:
            model(inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
