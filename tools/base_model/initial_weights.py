"""The weights that training of the shipped networks starts from."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def reinitialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear maps anew, with torch's own default distribution.

    Modules draw their first weights from the process-wide generator; this makes them a function of a seed.

    Args:
        model: Changed in place. Normalisation layers keep their ones and zeros.
        generator: CPU generator; the only source of the numbers.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
