"""A whole run in containers, as on a cluster, against the same run in subprocesses."""

import json
import os
import subprocess
import sys

import pytest

from hrf.storage.objects import Storage

pytestmark = [pytest.mark.container, pytest.mark.slow]

RUN = """
import json, os, sys, warnings
from kfp import local
from kfp.local import docker_task_handler, subprocess_task_handler
from hrf.config import resolve
from hrf_pipelines.finetune import build
from hrf_pipelines.local.handing_on import hand_on

warnings.simplefilter("ignore")
order = json.load(open(sys.argv[1]))
runner = local.DockerRunner(**order["docker"]) if order["docker"] else local.SubprocessRunner(use_venv=False)
for module, name in ((docker_task_handler, "DockerTaskHandler"), (subprocess_task_handler, "SubprocessTaskHandler")):
    setattr(module, name, hand_on(getattr(module, name)))
local.init(runner, pipeline_root=order["root"])
os.environ |= {f"HRF_IMAGE_{role.upper()}": image for role, image in order["images"].items()}
preset, overrides = "avatars-smoke", "{run: {replicas: 2}}"
pipeline = build(resolve(preset, overrides), preset=preset, overrides=overrides)
pipeline(storage=order["storage"], experiment="equal", run_tag="equal-run")
"""
#: Threads change the order of sums, so both runs get one.
THREADS = {"OMP_NUM_THREADS": "1"}
RUN_AS = 10001


def _start(root, storage, images, docker=None):
    order = {"root": str(root), "storage": storage, "docker": docker, "images": vars(images)}
    root.mkdir()
    # Kubeflow's runner has the task itself make its folders.
    os.chown(root, RUN_AS, RUN_AS)
    (root / "order.json").write_text(json.dumps(order))
    with open(root / "log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(root / "order.json")],
            env={**os.environ, **THREADS},
            stdout=log,
            stderr=subprocess.STDOUT,
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
    roots = {kind: tmp_path / kind for kind in ("containers", "subprocesses")}
    docker = {
        "network_mode": "host",
        "user": f"{RUN_AS}:{RUN_AS}",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "environment": {**s3_environment, **THREADS},
    }
    # Side by side, since each uses one core.
    running = {
        kind: _start(root, f"{storage_uri}/{kind}", images, docker if kind == "containers" else None)
        for kind, root in roots.items()
    }
    for kind, process in running.items():
        assert process.wait() == 0, (roots[kind] / "log").read_text()[-5000:]

    log = (roots["containers"] / "log").read_text()
    for image in vars(images).values():
        assert f"Found image '{image}'" in log
    assert "Found image" not in (roots["subprocesses"] / "log").read_text()
    written = {path.stat().st_uid for path in roots["containers"].rglob("*.safetensors")}
    assert written == {RUN_AS}
    contained, plain = (_candidates(f"{storage_uri}/{kind}") for kind in roots)
    assert contained == plain
    assert s3_environment["AWS_SECRET_ACCESS_KEY"] not in log
