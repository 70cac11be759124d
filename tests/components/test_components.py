"""Components: what may stand in them, and that they call their step as it is written."""

import ast
import builtins
import dis
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import hrf_components

STEPS = [
    *("check", "fetch", "prepare", "baseline", "sample", "gather", "score", "update", "train", "merge", "evaluate"),
    *("steer", "summarize", "report_status"),
]
#: Components that are called otherwise than the function that they call.
CALLS = {"evaluate": "judge"}
FILES = sorted(Path(hrf_components.__file__).parent.glob("*.py"))


def _component(name):
    return getattr(importlib.import_module(f"hrf_components.{name}"), name)


def _body(name):
    tree = ast.parse(Path(importlib.import_module(f"hrf_components.{name}").__file__).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_the_standard_library_and_kfp_are_imported_at_module_level(file):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert module.split(".")[0] in {*sys.stdlib_module_names, "kfp"}, module


def test_every_component_has_a_test_here():
    assert {file.stem for file in FILES} - {"__init__", "outputs"} == set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_a_component_gives_its_step_exactly_the_arguments_that_it_takes(name):
    function = CALLS.get(name, name)
    step = getattr(importlib.import_module(f"hrf.steps.{function}"), function)
    calls = [node for node in ast.walk(_body(name)) if isinstance(node, ast.Call)]
    call = next(node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "step")
    assert not call.args
    assert {keyword.arg for keyword in call.keywords} == set(inspect.signature(step).parameters)


@pytest.mark.parametrize("name", STEPS)
def test_a_component_is_thin_and_installs_nothing(name):
    assert len(_body(name).body) <= 8
    container = _component(name).component_spec.implementation.container
    assert container.image.startswith("hrf-")
    assert "pip install" not in " ".join(container.command)


@pytest.mark.parametrize("name", STEPS)
def test_every_argument_is_documented_and_said_in_ascii(name):
    text = inspect.getdoc(_component(name).python_func)
    assert text.isascii()
    documented = text.split("Args:")[1]
    for argument in inspect.signature(_component(name).python_func).parameters:
        assert f"    {argument}: " in documented


@pytest.mark.parametrize("name", STEPS)
def test_a_body_uses_no_name_of_its_module(name):
    """Kubeflow takes only the function's source along: a module's constant would be a NameError at run time."""
    function = _component(name).python_func
    loaded = {entry.argval for entry in dis.get_instructions(function) if entry.opname == "LOAD_GLOBAL"}
    assert loaded <= set(dir(builtins))
