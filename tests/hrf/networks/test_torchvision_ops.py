"""torchvision beside a torch without CUDA: a small package that does on its import what torchvision does."""

import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.slow,  # Each is a process that imports torch.
    pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA, so nothing is declared"),
]

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


DECLARED = "from hrf.networks.torchvision_ops import declare_missing; declare_missing()"


def test_torchvision_can_be_imported_once_its_operators_are_declared(torchvision):
    alone = _python("import torchvision", torchvision.parent)
    assert "operator torchvision::nms does not exist" in alone.stderr
    done = _python(f"{DECLARED}\nimport torchvision; print(torchvision.ready)", torchvision.parent)
    assert done.stdout.strip() == "True", done.stderr


def test_what_imports_it_for_us_has_them_declared(torchvision):
    for module in ("hrf.networks.calls", "hrf.policies.components"):
        done = _python(f"import {module}, torchvision; print(torchvision.ready)", torchvision.parent)
        assert done.stdout.strip() == "True", done.stderr


def test_a_users_reward_may_import_it(torchvision):
    (torchvision.parent / "mine.py").write_text("import torchvision\ndef score(images): return images\n")
    load = "from hrf.rewards.python import load_user_function as load; print(load('mine:score', field='reward').name)"
    done = _python(load, torchvision.parent)
    assert done.stdout.strip() == "mine:score", done.stderr


def test_a_torchvision_without_any_compiled_part_can_be_imported(torchvision):
    (torchvision / "_C.so").unlink()
    done = _python(f"{DECLARED}\nimport torchvision; print(torchvision.ready)", torchvision.parent)
    assert done.stdout.strip() == "True", done.stderr


def test_operators_that_can_be_loaded_are_not_declared_again(torchvision):
    # Declaring an operator twice is an error.
    done = _python(f"{FITTING}\n{DECLARED}\nimport torchvision; print(torchvision.ready)", torchvision.parent)
    assert done.stdout.strip() == "True", done.stderr


def test_a_torchvision_that_is_there_already_is_left_alone(torchvision):
    (torchvision / "__init__.py").write_text("ready = True\n")
    program = f"import torchvision\n{DECLARED}\nimport torch; print(hasattr(torch.ops.torchvision, 'nms'))"
    done = _python(program, torchvision.parent)
    assert done.stdout.strip() == "False", done.stderr


def test_without_torchvision_nothing_is_declared(tmp_path):
    hidden = "sys.path = [p for p in sys.path if 'site-packages' not in p]"
    program = f"import hrf.networks.torchvision_ops, torch\n{hidden}\n{DECLARED}"
    done = _python(f"{program}\nprint(hasattr(torch.ops.torchvision, 'nms'))", tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_the_import_of_the_library_changes_nothing_but_itself(torchvision):
    before = "finders = list(sys.meta_path)"
    program = f"{before}; import hrf; print(finders == sys.meta_path, 'torch' in sys.modules)"
    assert _python(program, torchvision.parent).stdout.split() == ["True", "False"]
