"""The smallest whole run: killed and gone on with, it ends in the bytes of one that goes straight on, in shards."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hrf.checkpoint import read_manifest
from hrf.config import resolve
from pipelines.object_storage import CONFIGURED_BY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STRAIGHT = """
import sys, warnings
from kfp import local
from hrf.config import resolve
from pipelines.finetune import build
from pipelines.placement import Placement
warnings.simplefilter("ignore")
root, storage, run_tag = sys.argv[1:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
pipeline = build(resolve("avatars-smoke"), preset="avatars-smoke", placement=Placement(shards=2))
pipeline(storage=storage, run_tag=run_tag)
"""


def _straight(folder, storage_uri, run_tag):
    """Run the pipeline from Python, without `hrf run`, with two shards of sampling."""
    subprocess.run(
        [sys.executable, "-c", STRAIGHT, str(folder), storage_uri, run_tag],
        env={**_environment(), **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}},
        capture_output=True,
        text=True,
        check=True,
    )


def _last_policy(artifacts):
    """What the last update wrote, file by file."""
    policies = [read_manifest(path) for path in artifacts.glob("*/update*/new_policy")]
    return max(policies, key=lambda manifest: manifest.producer["epoch"]).files


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


def test_a_killed_run_ends_in_the_same_policy_as_one_straight_through_whose_sampling_is_shared(
    work_dir, tmp_path, storage_uri
):
    """The shards run side by side, as they do on a cluster."""
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
    _straight(tmp_path / "straight", storage_uri, state["run_id"])
    # Two epochs of two shards.
    assert len(list((tmp_path / "straight").glob("*/*iteration*/sample*/trajectories"))) == 4
    (run,) = (home / "runs").glob("[!.]*")
    assert _last_policy(run / "artifacts") == _last_policy(tmp_path / "straight")
    assert state["config"]["avatars-smoke"] == resolve("avatars-smoke").to_mapping()
