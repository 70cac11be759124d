"""Lets torchvision be imported beside a torch without CUDA, also where torchvision itself was built for CUDA.

Such a torchvision can't load its compiled operators there, and then fails on its own import, since it describes two
of them (`nms`, `qnms`) that nobody has declared. diffusers and transformers import torchvision wherever it is
installed, so they fail with it. Declaring the two is enough: nothing here calls them, and all of torchvision that is
written in Python (transforms, model definitions) works. Its other compiled parts, as `torchvision.io`, stay absent.

Nothing is imported until somebody imports torchvision, and nothing is done where its operators can be loaded.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def declare_on_import() -> None:
    """Have the operators declared right before torchvision is imported; once per process, before diffusers."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        found = PathFinder.find_spec(fullname, path)
        if found is None or not isinstance(found.loader, SourceFileLoader):
            return found
        return spec_from_file_location(
            fullname,
            found.loader.path,
            loader=_Loader(fullname, found.loader.path),
            submodule_search_locations=found.submodule_search_locations,
        )


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _declare_missing(Path(self.path).parent)
        super().exec_module(module)


def _declare_missing(package: Path) -> None:
    import torch

    if torch.version.cuda is not None or _has_operators(package):
        return
    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)


def _has_operators(package: Path) -> bool:
    """Whether torchvision's compiled operators are there and fit this torch. They are loaded by the attempt."""
    import torch

    for library in package.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
        return True
    return False
