"""What tests of several folders share: a real S3 server, started once, and a fresh place on it per test."""

from __future__ import annotations

import functools
import gc
import inspect
import json
import os
import sys
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import hypothesis
import pytest

from hrf.networks import torchvision_ops
from hrf.storage.objects import Storage
from hrf_pipelines.local import embedded_s3 as embedded_s3_module
from hrf_pipelines.local.embedded_s3 import EmbeddedS3

# Of the hundreds of thousands of objects that modules and collected tests are, none ever goes: looking for some that do
# is a seventh of what importing takes. On again in `pytest_collection_finish`.
gc.disable()

# Some tests import diffusers or open_clip before anything of ours does.
torchvision_ops.declare_missing()

# A shared machine can be slow for a moment; that is no property of the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


HERE = Path(__file__).parent
#: What Kubernetes, Docker and Kubeflow read, which changes seldom; see the mark `deployment` in pyproject.toml.
DEPLOYMENT = (
    "manifests/",
    "images/",
    "pipelines/cluster/test_api_rules.py",
    "pipelines/cluster/test_recordings.py",
    "pipelines/doctor/",
    "pipelines/test_every_preset.py",
)
#: What trains or draws step by step, counts whole models, or starts servers: too long for a part that is run at every
#: turn. See the mark `slow` in pyproject.toml.
SLOW = (
    "benchmarks/",
    "docs/test_code.py",
    "golden/",
    "hrf/planning/",
    "hrf/report/tracking/",
    "hrf/rewards/test_remote_reward.py",
    "hrf/rewards/test_reward_server",
    "hrf/steps/",
    "hrf/storage/test_s3_answers.py",
    "hrf/study/",
    "pipelines/local/",
    "tools/",
)
#: The files of the slow part that take minutes, longest first: begun last, one of them would have a worker to itself.
LONGEST_FIRST = (
    "e2e/test_kills.py",
    "pipelines/cluster/test_study.py",
    "pipelines/cluster/test_resume.py",
    "e2e/",
    "hrf/steps/test_sharding.py",
    "pipelines/",
)
#: Files that look at one and the same run, the fixture `undisturbed`: on one worker it is made once.
OF_ONE_RUN = ("e2e/test_kills.py", "e2e/test_run.py", "e2e/test_bad_inputs.py", "e2e/test_from_python.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, files that share what takes long to make stay on one worker, like tests of one file."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LoadWhatShares(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return OF_ONE_RUN[0] if file.endswith(OF_ONE_RUN) else file

    return LoadWhatShares(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """From here on garbage is looked for again, among what tests make."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests the marks of their folders, and sort files by how long they take."""

    def file_of(item: pytest.Item) -> str:
        return item.path.relative_to(HERE).as_posix()

    def place(item: pytest.Item) -> int:
        starts = enumerate(LONGEST_FIRST)
        return next((place for place, start in starts if file_of(item).startswith(start)), len(LONGEST_FIRST))

    for item in items:
        for folders, mark in ((DEPLOYMENT, pytest.mark.deployment), (SLOW, pytest.mark.slow)):
            if file_of(item).startswith(folders):
                item.add_marker(mark)
    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _stacks_of_names() -> Iterator[None]:
    """kfp asks for the whole call stack at every setting of a task and takes a name from it. Python seeks each frame's
    file among all modules: with a test's deep stack, that is most of what compiling a package would take here."""

    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        frames = [(frame, frame.f_code) for frame, _ in traceback.walk_stack(sys._getframe(1))]
        return [inspect.FrameInfo(f, code.co_filename, f.f_lineno, code.co_name, None, None) for f, code in frames]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


@pytest.fixture(scope="session", autouse=True)
def _services_described_once() -> Iterator[None]:
    """For every client that it makes, boto reads what it knows of all services of AWS: most of what a client takes, and
    there are thousands here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Steps have the system put what they write on the disk, thousands of times here. No test can cut the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
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
