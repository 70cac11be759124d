"""Frozen networks that are on a GPU only while they are asked: between two visits its memory is the denoiser's.

Without torch at import: a server of rewards may have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_departures: ExitStack | None = None
"""Of the outermost block of `staying`; None outside of one."""


@contextmanager
def visiting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a network on a device for the block, and afterwards where it was; nothing moves if it is there already.

    Its weights are copied there and dropped there: the block must not change them.
    """
    with ExitStack() as own:
        if next(network.parameters()).device.type != device.type:
            (own if _departures is None else _departures).enter_context(_moved(network, device))
        yield


@contextmanager
def staying() -> Iterator[None]:
    """Let networks that come to a device within the block stay there until it ends: nothing else wants the room."""
    global _departures
    if _departures is not None:
        yield
        return
    with ExitStack() as _departures:
        try:
            yield
        finally:
            _departures = None


@contextmanager
def _moved(network: nn.Module, device: torch.device) -> Iterator[None]:
    slots: list[tuple[dict[str, Any], str, Tensor]] = [
        (tensors, name, tensor)
        for part in network.modules()
        for tensors in (part._parameters, part._buffers)
        for name, tensor in tensors.items()
        if tensor is not None
    ]
    # Parts may share a tensor.
    copies = {id(tensor): tensor.to(device) for _, _, tensor in slots}
    for tensors, name, tensor in slots:
        tensors[name] = copies[id(tensor)]
    try:
        yield
    finally:
        for tensors, name, tensor in slots:
            tensors[name] = tensor
