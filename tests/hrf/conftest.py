"""One MLflow server for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.tracking_server import mlflow_server

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def started_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def server(started_mlflow: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, also in this process's variables."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "KFP_MLFLOW_CONFIG", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started_mlflow)
    return started_mlflow


@pytest.fixture
def client(server: str) -> MlflowClient:
    """Asks the server."""
    from mlflow import MlflowClient  # Half a second, which every file here would wait for.

    return MlflowClient(server)
