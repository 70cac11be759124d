"""torchvision beside a torch without CUDA: a small package that does on its import what torchvision does."""

import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA, so nothing is declared")

#: torchvision/__init__.py, in short: load the compiled operators if possible, then describe two of them.
IMPORTED = """
import pathlib, torch
for library in pathlib.Path(__file__).parent.glob("_C.so"):
    try:
        torch.ops.load_library(str(library))
    except OSError:
        pass
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets)
ready = True
"""
#: Stands for a compiled part that fits: loaded once per process, it declares its operators itself.
FITTING = """
import functools, torch

@functools.cache
def load_library(path):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

torch.ops.load_library = load_library
"""


@pytest.fixture
def torchvision(tmp_path):
    """The folder of a torchvision whose compiled part needs a CUDA that is not there."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(IMPORTED)
    (package / "_C.so").write_bytes(b"no library")
    return package


def _python(program, folder):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_torchvision_can_be_imported_once_the_library_is(torchvision):
    alone = _python("import torchvision", torchvision.parent)
    assert "operator torchvision::nms does not exist" in alone.stderr
    done = _python("import hrf, torchvision; print(torchvision.ready, torchvision.__file__)", torchvision.parent)
    assert done.stdout.split() == ["True", str(torchvision / "__init__.py")], done.stderr


def test_a_torchvision_without_any_compiled_part_can_be_imported(torchvision):
    (torchvision / "_C.so").unlink()
    done = _python("import hrf, torchvision.extension as e; print(e.here)", torchvision.parent)
    assert "No module named 'torchvision.extension'" in done.stderr
    (torchvision / "extension.py").write_text("here = True\n")
    done = _python("import hrf, torchvision.extension as e; print(e.here)", torchvision.parent)
    assert done.stdout.strip() == "True", done.stderr


def test_operators_that_can_be_loaded_are_not_declared_again(torchvision):
    # Declaring an operator twice is an error.
    done = _python(f"{FITTING}\nimport hrf, torchvision; print(torchvision.ready)", torchvision.parent)
    assert done.stdout.strip() == "True", done.stderr


def test_the_library_alone_imports_neither_torch_nor_torchvision(torchvision):
    program = "import hrf, importlib.util as u; u.find_spec('torchvision').origin; print('torch' in sys.modules)"
    assert _python(program, torchvision.parent).stdout.strip() == "False"


def test_a_torchvision_that_is_not_there_is_reported_as_usual(tmp_path):
    program = "import hrf\nsys.path = [p for p in sys.path if 'site-packages' not in p]\nimport torchvision"
    assert "No module named 'torchvision'" in _python(program, tmp_path).stderr
