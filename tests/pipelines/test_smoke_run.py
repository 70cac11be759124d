"""The smallest whole run: killed and gone on with, it ends in the same bytes as one straight through from Python."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrf.checkpoint import read_manifest
from hrf.config import resolve
from pipelines.object_storage import CONFIGURED_BY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STRAIGHT = """
import json, sys, warnings
from kfp import local
from hrf.config import resolve
from pipelines.finetune import build
warnings.simplefilter("ignore")
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1])
run = build(resolve("avatars-smoke"), preset="avatars-smoke")(storage=sys.argv[2], run_tag=sys.argv[3])
print("OUTPUTS", json.dumps({name: artifact.path for name, artifact in run.outputs.items()}))
"""


def _environment():
    environment = {name: value for name, value in os.environ.items() if name not in (*CONFIGURED_BY, "HRF_BUCKET")}
    return {**environment, "OMP_NUM_THREADS": "1"}


def _hrf(*arguments):
    return [sys.executable, "-m", "pipelines.cli", *arguments]


def _events(work_dir):
    files = list(work_dir.glob("runs/*/progress.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()] if files else []


def _steps(work_dir, kind):
    return [(event["step"], event["epoch"]) for event in _events(work_dir) if event["event"] == kind]


def test_a_killed_run_goes_on_and_ends_in_the_same_policy_as_one_straight_through(work_dir, tmp_path, storage_uri):
    # The embedded server that the fixture takes down lies in WORK_DIR/s3 of the command.
    home = work_dir.parent / "home"
    home.mkdir()
    (home / "s3").symlink_to(work_dir)
    work_dir.mkdir()
    command = _hrf("run", "avatars-smoke", "--work-dir", str(home))
    killed = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while ("evaluate", 0) not in _steps(home, "step-started"):
        assert time.monotonic() < end
        assert killed.poll() is None, killed.stderr.read().decode()
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resuming run" in done.stderr
    assert "Promoted:  nothing yet" in done.stdout
    finished = _steps(home, "step-finished")
    assert len(finished) == len(set(finished)), "a finished step ran twice"

    state = json.loads(next(home.glob("runs/*/state.json")).read_text())
    outputs = json.loads(next(home.glob("runs/*/outputs.json")).read_text())
    straight = subprocess.run(
        [sys.executable, "-c", STRAIGHT, str(tmp_path / "straight"), storage_uri, state["run_id"]],
        env={**_environment(), **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in straight.stdout.splitlines() if line.startswith("OUTPUTS "))
    expected = json.loads(line.removeprefix("OUTPUTS "))
    assert read_manifest(Path(outputs["policy"])).files == read_manifest(Path(expected["policy"])).files
    assert state["config"]["avatars-smoke"] == resolve("avatars-smoke").to_mapping()
