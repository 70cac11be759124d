"""A run that is killed when it has just told MLflow of an epoch goes on in the same MLflow run, and tells it once."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient

from hrf.report.tracking.event_files import EVENT_FILE
from tests.e2e.commands import descendants, events, hrf, kill, only_run, start, wait_for
from tests.e2e.conftest import EXPERIMENT, removed_at_the_end, run_command
from tests.tracking_server import mlflow_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


def has_told(work_dir) -> bool:
    return any(event["event"] == "tracked" for event in events(work_dir))


def test_a_killed_run_goes_on_in_its_mlflow_run_and_draws_each_point_once(server, tmp_path_factory):
    variables = {"MLFLOW_TRACKING_URI": server, "HRF_TRACKING_SECONDS": "60"}
    with removed_at_the_end(tmp_path_factory.mktemp("tracked")) as work_dir:
        process = start(*run_command(work_dir), output=work_dir / "output", variables=variables)
        wait_for(lambda: has_told(work_dir) or process.poll() is not None)
        # The step has told, and not ended yet: it will run again.
        kill(process.pid, *descendants(process.pid))
        process.wait()
        said = hrf(*run_command(work_dir), variables=variables)
        assert said.exit_code == 0, said.output
        folder = only_run(work_dir)
        epochs = json.loads((folder / "summary" / "summary.json").read_text())["epochs"]
        assert (folder / "tensorboard" / EVENT_FILE).stat().st_size > 10_000

    client = MlflowClient(server)
    (found,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert (found.info.run_name, found.info.status) == (folder.name, "FINISHED")
    assert said.output.count(f"MLflow: {server}/#/experiments/") == 1
    drawn = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "train/reward_mean")]
    assert drawn == [(epoch["epoch"], epoch["update"]["reward_mean"]) for epoch in epochs]
    assert [point.step for point in client.get_metric_history(found.info.run_id, "evaluation/reward")] == [
        -1,
        *(epoch["epoch"] for epoch in epochs if epoch["evaluation"]),
    ]
