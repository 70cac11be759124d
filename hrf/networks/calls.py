"""How pretrained networks are called: on a device that is there, and in calls of one size."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hrf.errors import ConfigError
from hrf.images import to_uint8
from hrf.networks import torchvision_ops
from hrf.networks.visits import visiting

# Before open_clip and transformers.
torchvision_ops.declare_missing()

Item = TypeVar("Item")


def scorer_library(name: str, field: str) -> ModuleType:
    """Import a library of the extra `reward`.

    Raises:
        ConfigError: If it is not installed here.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{field}.name" if field.endswith("reward") else field,
            expected=f"the Python package {name!r}, which this needs",
            got=str(error),
            fix="pip install hrf-pipelines[reward]; on a cluster, use the image hrf-reward",
        ) from error


def usable_device(device: str, field: str) -> torch.device:
    """The device of a section, if this machine has it.

    Raises:
        ConfigError: If it hasn't.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{field}.device",
            expected="a device that this machine has",
            got=device,
            fix="set it to cpu, or give the steps that score a GPU (images/README.md, placements)",
        )
    return torch.device(device)


def pictures(images: NDArray[np.float32]) -> list[Image.Image]:
    """Images [n, 3, H, W] in [0, 1] as the pictures that a file would hold, rounded to bytes.

    Libraries resize pictures, and resizing rounds: started from the same bytes, a network is shown exactly what its
    library would show it of the saved picture.
    """
    return [Image.fromarray(pixels) for pixels in to_uint8(images)]


def in_calls(
    items: Sequence[Item], prepare: Callable[[Item], Tensor], network: Callable[[Tensor], Tensor], *, call_size: int
) -> Tensor:
    """Run a network on prepared items, always `call_size` of them at a time.

    How a row is rounded depends on how many rows a call has, and on nothing else about the others. The last call is
    filled up with its last item.

    Args:
        items: n of them, at least one.
        prepare: Item -> what the network is shown of it, without the batch axis.
        network: [call_size, ...] -> [call_size, ...].
        call_size: Rows of a call.

    Returns:
        [n, ...] on the CPU.
    """
    results = []
    for start in range(0, len(items), call_size):
        prepared = [prepare(item) for item in items[start : start + call_size]]
        filled = prepared + prepared[-1:] * (call_size - len(prepared))
        with torch.inference_mode():
            results.append(network(torch.stack(filled))[: len(prepared)].cpu())
    return torch.cat(results)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A frozen network, which is on its device only while it is called."""

    model: Any
    device: torch.device
    call_size: int

    def in_calls(
        self, items: Sequence[Item], prepare: Callable[[Item], Tensor], network: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Run a function of the model as `in_calls` does, on its device."""
        with visiting(self.model, self.device):
            return in_calls(items, prepare, lambda batch: network(batch.to(self.device)), call_size=self.call_size)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep libraries from logging warnings within the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
