"""Lets torchvision be imported beside a torch without CUDA, also where torchvision itself was built for CUDA.

Such a torchvision can't load its compiled operators there, and then fails on its own import, since it describes two
of them (`nms`, `qnms`) that nobody has declared. diffusers, transformers and peft import torchvision wherever it is
installed, so they fail with it. Declaring the two is enough: nothing here calls them, and all of torchvision that is
written in Python (transforms, model definitions) works. Its other compiled parts, as `torchvision.io`, stay absent.
"""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def declare_missing() -> None:
    """Declare the operators where torchvision is installed and can't load its own; before whatever imports it."""
    if torch.version.cuda is not None or "torchvision" in sys.modules:
        return
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or _has_operators(Path(spec.origin).parent):
        return
    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)


def _has_operators(package: Path) -> bool:
    """Whether torchvision's compiled operators are there and fit this torch. They are loaded by the attempt."""
    for library in package.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
        return True
    return False
