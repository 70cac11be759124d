"""What the steps of a run on this machine are forked from: imports, and nothing that a fork would break."""

import json
import subprocess
import sys

import pytest

from hrf_pipelines.placement import Images

pytestmark = pytest.mark.slow

RUN_STEP = """
import json, sys
from kfp.local import SubprocessRunner
from hrf_pipelines.local.forked_steps import ForkedStep
image, source, outputs = sys.argv[1:]
command = ["sh", "-ec", "python3 -m kfp.dsl.executor_main", source]
executor_input = {"inputs": {}, "outputs": {"outputFile": outputs, "parameters": {"Output": {"outputFile": outputs}}}}
arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "imported"]
handler = ForkedStep(image, command + arguments, "/nowhere", SubprocessRunner(use_venv=False), {"GIVEN": "to it"})
print(handler.run().name)
"""

IMPORTED = """
def imported() -> str:
    import os, sys
    assert os.environ["GIVEN"] == "to it"
    return " ".join(name for name in ("torch", "diffusers.models.unets.unet_2d") if name in sys.modules)
"""


@pytest.mark.parametrize(
    ("image", "expected"),
    [(Images().control, ""), (Images().worker, "torch diffusers.models.unets.unet_2d")],
)
def test_a_step_finds_the_imports_of_its_image_done(tmp_path, image, expected):
    """Kills the mutants that import for no step, or for every step."""
    command = [sys.executable, "-c", RUN_STEP, image, IMPORTED, str(tmp_path / "outputs")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "SUCCESS", said
    (output,) = json.loads((tmp_path / "outputs").read_text())["parameterValues"].values()
    assert output == expected


def test_a_step_that_fails_is_a_failure(tmp_path):
    source = "def imported() -> str:\n    raise RuntimeError('told in the log')\n"
    command = [sys.executable, "-c", RUN_STEP, Images().control, source, str(tmp_path / "outputs")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "FAILURE"
    assert "told in the log" in said.stderr


ASK_FOR_GPUS = """
import torch
asked = []
def record(name, function):
    setattr(torch.cuda, name, lambda *args, **options: asked.append(name) or function(*args, **options))
for name in ("init", "_lazy_init", "is_available", "device_count", "current_device", "get_device_properties"):
    record(name, getattr(torch.cuda, name))
from hrf_pipelines.local.forked_steps import import_for_all
import_for_all()
assert not asked, asked
torch.cuda.device_count()
assert asked == ["device_count"]
"""


def test_the_imports_do_not_ask_for_gpus():
    """A process that has asked CUDA for its devices has children that can't use them."""
    subprocess.run([sys.executable, "-c", ASK_FOR_GPUS], check=True)
