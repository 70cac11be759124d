"""A whole run in containers, as on a cluster, against the same run in subprocesses."""

import json
import os
import subprocess
import sys

import pytest

from hrf.storage import Storage

pytestmark = [pytest.mark.container, pytest.mark.slow]

RUN = """
import json, sys, warnings
from kfp import local
from hrf.config import resolve
from pipelines.finetune import build
from pipelines.placement import Images

warnings.simplefilter("ignore")
order = json.loads(sys.stdin.read())
runner = local.DockerRunner(**order["docker"]) if order["docker"] else local.SubprocessRunner(use_venv=False)
local.init(runner, pipeline_root=order["root"])
pipeline = build(resolve("avatars-smoke"), preset="avatars-smoke", images=Images(**order["images"]))
pipeline(storage=order["storage"], experiment="equal", run_tag="equal-run")
"""
#: Threads change the order of sums, so both runs get one.
THREADS = {"OMP_NUM_THREADS": "1"}
RUN_AS = 10001


def _run(root, storage, images, docker=None):
    order = {"root": str(root), "storage": storage, "docker": docker, "images": vars(images)}
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(order),
        env={**os.environ, **THREADS},
        capture_output=True,
        text=True,
        check=False,
    )


def _candidates(storage):
    """Digests of all files of every evaluated epoch's candidate, by epoch."""
    place = Storage.open(storage)
    found = {}
    for epoch in range(2):
        value, _ = place.read_json(f"equal/candidates/equal-run/epoch-{epoch:04d}/manifest.json")
        found[epoch] = value["files"]
    return found


def test_a_run_in_containers_ends_in_the_same_weights_as_one_in_subprocesses(
    images, s3_environment, storage_uri, tmp_path
):
    root = tmp_path / "containers"
    root.mkdir()
    os.chown(root, RUN_AS, RUN_AS)
    docker = {
        "network_mode": "host",
        "user": f"{RUN_AS}:{RUN_AS}",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "environment": {**s3_environment, **THREADS},
    }
    contained = _run(root, f"{storage_uri}/containers", images, docker)
    assert contained.returncode == 0, contained.stdout[-5000:] + contained.stderr[-5000:]
    plain = _run(tmp_path / "subprocesses", f"{storage_uri}/subprocesses", images)
    assert plain.returncode == 0, plain.stdout[-5000:] + plain.stderr[-5000:]

    for image in vars(images).values():
        assert f"Found image '{image}'" in contained.stdout
    assert "Found image" not in plain.stdout
    written = [path.stat().st_uid for path in root.rglob("*.safetensors")]
    assert set(written) == {RUN_AS}
    assert _candidates(f"{storage_uri}/containers") == _candidates(f"{storage_uri}/subprocesses")
    secret = s3_environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in contained.stdout + contained.stderr
