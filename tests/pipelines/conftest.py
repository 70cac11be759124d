"""A strict API server for each test, and the command that talks to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hrf_pipelines.cli.main import app
from hrf_pipelines.cluster import connection
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.submitting import put_experiment, put_version, start_run
from hrf_pipelines.local.object_storage import CONFIGURED_BY
from tests.hrf.summary_folders import summary_record
from tests.kfp_api.server import KfpServer, serve
from tests.kubernetes_api.certificates import make_certificate
from tests.kubernetes_api.server import KubernetesServer
from tests.kubernetes_api.server import serve as serve_kubernetes
from tests.pipelines.cluster import guarded
from tests.pipelines.cluster.computing import Pods

#: As small as a package gets.
SMOKE = ("avatars-smoke", "--epochs", "1")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No storage, no cluster, no token."""
    names = (connection.HOST, connection.NAMESPACE, connection.TOKEN, connection.TOKEN_FILE, connection.CA_FILE)
    for name in (*CONFIGURED_BY, "AWS_SECRET_ACCESS_KEY", "HRF_BUCKET", *names, "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    # No cluster that this machine knows of.
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    # Without it, boto3 asks for credentials where a machine in a cloud would have some.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(connection, "PAUSES", (0.01, 0.01, 0.01))
    return monkeypatch


@pytest.fixture
def kfp(clean_environment: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A server that HRF_KFP_HOST names. A request that its definition does not allow fails the test."""
    with serve() as server:
        clean_environment.setenv(connection.HOST, server.url)
        yield server
    assert server.violations == []


@pytest.fixture(scope="session")
def pods() -> Iterator[Pods]:
    """What computes a cluster's runs here."""
    with Pods.started() as started:
        yield started


@pytest.fixture
def kubernetes(clean_environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KubernetesServer]:
    """An API server of Kubernetes that the user's kubeconfig names; there, the user may do everything."""
    with serve_kubernetes(make_certificate(tmp_path)) as server:
        clean_environment.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server


@pytest.fixture
def hrf(clean_environment: pytest.MonkeyPatch) -> Any:
    """Runs `hrf` with some arguments."""
    return lambda *arguments, **options: CliRunner().invoke(app, list(arguments), **options)


@pytest.fixture
def submit(hrf: Any) -> Any:
    """Submits the smallest run and returns what was printed as JSON."""

    def run(*arguments: str) -> dict[str, Any]:
        storage = () if "--storage" in arguments else ("--storage", "s3://bucket/hrf")
        result = hrf("submit", *SMOKE, *storage, "--json", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture
def start(kfp: KfpServer) -> Any:
    """Starts a run of a small pipeline; returns it."""

    def run(run_tag: str = "", *, storage: str = "s3://bucket/hrf", experiment: str = "default") -> Any:
        cluster = Cluster.connect()
        return start_run(
            cluster,
            version=put_version(cluster, guarded.package()),
            experiment_id=put_experiment(cluster, experiment),
            name=run_tag or "small",
            parameters={"experiment": experiment, "storage": storage, "run_tag": run_tag},
            service_account="hrf-runner",
        )

    return run


@pytest.fixture
def summary() -> dict[str, Any]:
    """The summary of a finished run."""
    return summary_record()


def words(result: Any) -> str:
    """Everything said, without the frames that break lines."""
    return " ".join(result.output.replace("│", " ").split())
