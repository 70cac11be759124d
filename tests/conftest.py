"""What tests of several folders share: a real S3 server, started once, and a fresh place on it per test."""

from __future__ import annotations

import functools
import inspect
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
import botocore.session
import hypothesis
import pytest

from hrf.networks import torchvision_ops
from hrf.storage.objects import Storage
from hrf_pipelines.local import embedded_s3 as embedded_s3_module
from hrf_pipelines.local.embedded_s3 import EmbeddedS3

# Some tests import diffusers or open_clip before anything of ours does.
torchvision_ops.declare_missing()

# A shared machine can be slow for a moment; that is no property of the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _stacks_without_source() -> Iterator[None]:
    """kfp asks for the whole call stack at every setting of a task and takes a name from it. With the source lines that
    nobody looks at, and a test's deep stack, that is most of what compiling a package would take here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", functools.partial(inspect.stack, 0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _services_described_once() -> Iterator[None]:
    """For every client that it makes, boto reads what it knows of all services of AWS: most of what a client takes, and
    there are thousands here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_server_of_the_developers_own() -> Iterator[None]:
    """Steps tell an MLflow server whatever they do, wherever this variable is set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="session")
def embedded_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    """A SeaweedFS server with the bucket `hrf`, started on first use and killed at the end."""
    with EmbeddedS3.start(tmp_path_factory.mktemp("s3"), "hrf") as server:
        yield server


@pytest.fixture
def s3_environment(embedded_s3: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The server's variables, also set for this process and its children."""
    variables = embedded_s3.environment()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def storage_uri(s3_environment: dict[str, str]) -> str:
    """An `s3://bucket/prefix` that no other test uses, reachable with this process's own variables."""
    return f"s3://hrf/{uuid.uuid4().hex}"


@pytest.fixture
def storage(storage_uri: str) -> Storage:
    """A fresh, empty place in object storage."""
    return Storage.open(storage_uri)


@pytest.fixture
def work_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder for an S3 server of the test's own, which is down again after the test whatever happened."""
    folder = tmp_path / "embedded"
    yield folder
    if (folder / "s3.json").exists():
        # Not by `stop`: the frames of a failed test are users of the server still.
        embedded_s3_module._end_server(folder, json.loads((folder / "s3.json").read_text())["ports"], graceful=False)
