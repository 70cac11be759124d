"""What an MLflow server is told of a run: all of it, once, where it belongs; and what becomes of a step without one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from PIL import Image

from hrf.errors import ConfigError
from hrf.report import tracking
from hrf.report.tracking import Point, TrackedRun, check_client, follow
from hrf.report.tracking.mlflow_run import LONGEST_PARAMETER, MOST_METRICS, MOST_OTHERS, tell
from tests.tracking_server import failing_server, free_port, silent_server

PASSWORD = "correct-horse-battery-1"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the test is about it, a busy machine has time."""
    monkeypatch.setenv("HRF_TRACKING_SECONDS", "60")


@pytest.fixture
def run() -> TrackedRun:
    """A run that no other test knows."""
    name = uuid.uuid4().hex
    return TrackedRun(
        records=f"s3://hrf/tests-{name}/runs/{name}",
        experiment=f"tests-{name}",
        run_id="nightly-3",
        points=[train(0, 0.5), train(1, 0.75)],
    )


def train(epoch: int, reward: float) -> Point:
    return Point(group="train", epoch=epoch, numbers={"reward": reward, "loss": -reward})


def found(client: MlflowClient, run: TrackedRun) -> Run:
    """The one MLflow run of a run's experiment."""
    experiment = client.get_experiment_by_name(run.experiment)
    assert experiment is not None
    (only,) = client.search_runs([experiment.experiment_id])
    return only


def curve(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    return [file.path for file in client.list_artifacts(run_id, folder)]


class TestWhatIsLogged:
    def test_curves_grids_parameters_tags_and_files(
        self, client: MlflowClient, run: TrackedRun, tmp_path: Path
    ) -> None:
        grid, report = tmp_path / "grid.png", tmp_path / "report"
        Image.new("RGB", (64, 32), "red").save(grid)
        report.write_text("<h1>Grüße</h1>", encoding="utf-8")
        follow(
            dataclasses.replace(
                run,
                parameters={"update.learning_rate": "1e-4", "model.revision": "", "prompts": "x" * 7000},
                tags={"hrf.run_seed": "3"},
                files={"report.html": str(report), "samples/base.png": str(grid), "samples/epoch-0001.png": str(grid)},
                ended="FINISHED",
            )
        )
        logged = found(client, run)
        run_id = logged.info.run_id
        assert logged.info.run_name == run.run_id
        assert logged.info.status == "FINISHED"
        assert curve(client, run_id, "train/reward") == [(0, 0.5), (1, 0.75)]
        assert curve(client, run_id, "train/loss") == [(0, -0.5), (1, -0.75)]
        cut = f"{'x' * (LONGEST_PARAMETER - 1)}…"
        assert logged.data.params == {"update.learning_rate": "1e-4", "model.revision": "", "prompts": cut}
        assert logged.data.tags["hrf.run_seed"] == "3"
        assert files(client, run_id, "samples") == ["samples/base.png", "samples/epoch-0001.png"]
        picture = Path(client.download_artifacts(run_id, "samples/epoch-0001.png", str(tmp_path)))
        assert picture.read_bytes() == grid.read_bytes()
        page = Path(client.download_artifacts(run_id, "report.html", str(tmp_path)))
        assert page.read_text(encoding="utf-8") == "<h1>Grüße</h1>"

    def test_more_than_a_server_takes_at_once(self, client: MlflowClient, run: TrackedRun) -> None:
        many = range(MOST_METRICS)
        parameters = {f"parameter.{number}": str(number) for number in range(MOST_OTHERS + 1)}
        tags = {f"hrf.tag.{number}": str(number) for number in range(MOST_OTHERS + 1)}
        points = [train(epoch, epoch / 7) for epoch in many]
        tell(client, dataclasses.replace(run, points=points, parameters=parameters, tags=tags))
        logged = found(client, run)
        assert curve(client, logged.info.run_id, "train/loss") == [(epoch, -epoch / 7) for epoch in many]
        assert logged.data.params == parameters
        assert tags.items() <= logged.data.tags.items()

    def test_whoever_watches_is_told_the_page(
        self, server: str, client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HRF_PROGRESS_FILE", str(tmp_path / "progress"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("://", f"://me:{PASSWORD}@"))
        follow(run)
        (event,) = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
        info = found(client, run).info
        assert event["event"] == "tracked"
        assert event["page"] == f"{server}/#/experiments/{info.experiment_id}/runs/{info.run_id}"


class TestOnce:
    def test_a_step_that_runs_again_logs_nothing_again(
        self, client: MlflowClient, run: TrackedRun, tmp_path: Path
    ) -> None:
        grid = tmp_path / "grid.png"
        Image.new("RGB", (8, 8)).save(grid)
        again = dataclasses.replace(run, files={"samples/base.png": str(grid)}, parameters={"a": "1"})
        for _ in range(2):
            tell(client, again)
        logged = found(client, run)
        assert curve(client, logged.info.run_id, "train/reward") == [(0, 0.5), (1, 0.75)]
        assert files(client, logged.info.run_id, "samples") == ["samples/base.png"]

    def test_what_one_step_could_not_tell_a_later_one_tells(self, client: MlflowClient, run: TrackedRun) -> None:
        tell(client, dataclasses.replace(run, points=[train(0, 0.5)]))
        # Epoch 1 met a server that was away.
        later = [train(0, 0.5), train(1, 0.75), train(2, 1.0)]
        evaluated = Point(group="evaluation", epoch=0, numbers={"reward": 3.0})
        tell(client, dataclasses.replace(run, points=[*later, evaluated]))
        run_id = found(client, run).info.run_id
        assert curve(client, run_id, "train/reward") == [(0, 0.5), (1, 0.75), (2, 1.0)]
        assert curve(client, run_id, "evaluation/reward") == [(0, 3.0)]

    def test_a_point_of_which_only_a_part_arrived_is_completed(self, client: MlflowClient, run: TrackedRun) -> None:
        """A client that is ended between two requests has told a thousand numbers: a third of the last point."""

        class Ended(MlflowClient):
            def log_batch(self, run_id: str, metrics: Sequence[Metric] = (), **others: Any) -> None:
                assert len(metrics) == MOST_METRICS
                super().log_batch(run_id, metrics, **others)
                raise TimeoutError

        numbers = {"reward": 1.0, "loss": 2.0, "norm": 3.0}
        epochs = range(MOST_METRICS // 3 + 1)
        many = dataclasses.replace(run, points=[Point(group="train", epoch=e, numbers=numbers) for e in epochs])
        with pytest.raises(TimeoutError):
            tell(Ended(client.tracking_uri), many)
        tell(client, many)
        run_id = found(client, run).info.run_id
        for name, value in numbers.items():
            assert dict(curve(client, run_id, f"train/{name}")) == dict.fromkeys(epochs, value)

    def test_a_failed_run_that_goes_on_is_running_again(self, client: MlflowClient, run: TrackedRun) -> None:
        tell(client, dataclasses.replace(run, ended="FAILED", tags={"hrf.failure": "out of memory"}))
        assert found(client, run).info.status == "FAILED"
        tell(client, run)
        assert found(client, run).info.status == "RUNNING"

    def test_runs_of_the_same_name_in_two_buckets_are_two(self, client: MlflowClient, run: TrackedRun) -> None:
        tell(client, run)
        tell(client, dataclasses.replace(run, records=run.records.replace("hrf", "other", 1)))
        experiment = client.get_experiment_by_name(run.experiment)
        runs = client.search_runs([experiment.experiment_id])
        assert [found.info.run_name for found in runs] == ["nightly-3"] * 2
        assert len({found.data.tags["hrf.records"] for found in runs}) == 2

    def test_news_of_a_failure_makes_no_run_and_ends_none_that_has_ended(
        self, client: MlflowClient, run: TrackedRun
    ) -> None:
        """Told by the step that reports how Kubeflow's run ended, of every arm of a comparison."""
        failed = dataclasses.replace(run, points=[], ended="FAILED", tags={"hrf.failure": "out of memory"})
        assert tell(client, failed) == ""
        assert client.get_experiment_by_name(run.experiment) is None
        tell(client, run)
        tell(client, failed)
        assert found(client, run).info.status == "FAILED"
        assert found(client, run).data.tags["hrf.failure"] == "out of memory"
        tell(client, dataclasses.replace(run, ended="FINISHED"))
        tell(client, dataclasses.replace(failed, tags={"hrf.failure": "another arm's"}))
        assert found(client, run).info.status == "FINISHED"
        assert found(client, run).data.tags["hrf.failure"] == "out of memory"


class TestWhere:
    def test_the_experiment_that_mlflows_own_variables_name(
        self, client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named, numbered = (dataclasses.replace(run, experiment=f"{run.experiment}-{kind}") for kind in ("a", "b"))
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", named.experiment)
        tell(client, run)
        assert found(client, named).info.run_name == run.run_id
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment(numbered.experiment))
        tell(client, run)
        assert found(client, numbered).info.run_name == run.run_id

    def test_the_mlflow_run_of_kubeflows_run_which_kubeflow_ends(
        self, client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the plugin's variables, as Kubeflow 2.17 sets them: MLFLOW_RUN_ID is the step's, and left alone."""
        experiment = client.create_experiment(run.experiment)
        parent, step = as_in_kubeflow(client, experiment, monkeypatch)
        tell(client, dataclasses.replace(run, ended="FINISHED", tags={"hrf.run_id": run.run_id}))
        assert curve(client, parent, "train/reward") == [(0, 0.5), (1, 0.75)]
        assert client.get_run(parent).info.status == "RUNNING"
        assert client.get_run(parent).data.tags["hrf.run_id"] == run.run_id
        assert client.get_run(step).data.metrics == {}
        assert len(client.search_runs([experiment])) == 2

    def test_each_of_several_runs_in_one_of_kubeflows_has_its_own_curves(
        self, client: MlflowClient, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The arms of a comparison, at the same time, each step twice."""
        experiment = client.create_experiment(run.experiment)
        parent, _ = as_in_kubeflow(client, experiment, monkeypatch)
        arms = [
            dataclasses.replace(
                run,
                records=f"{run.records}-{arm}",
                experiment=f"{run.experiment}-{arm}",
                points=[train(0, arm), train(1, -arm)],
            )
            for arm in (1.0, 2.0)
        ]
        for _ in range(2):
            with ThreadPoolExecutor() as pool:
                list(pool.map(partial(tell, client), arms))
        tags = client.get_run(parent).data.tags
        homes = [tags[f"hrf.curves/{arm.experiment}/{arm.run_id}"] for arm in arms]
        assert len(set(homes)) == 2
        assert [curve(client, home, "train/reward") for home in homes] == [[(0, arm), (1, -arm)] for arm in (1.0, 2.0)]
        for home in {*homes} - {parent}:
            assert client.get_run(home).data.tags["mlflow.parentRunId"] == parent


def as_in_kubeflow(client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Make the runs that the plugin makes, and set the variables that it sets; returns the run's and the step's."""
    parent = client.create_run(experiment, run_name="hrf-finetune").info.run_id
    step = client.create_run(experiment, run_name="train", tags={"mlflow.parentRunId": parent}).info.run_id
    about = {"endpoint": "http://mlflow", "parentRunId": parent, "experimentId": experiment, "authType": "none"}
    monkeypatch.setenv("KFP_MLFLOW_CONFIG", json.dumps({**about, "timeout": "10s", "injectUserEnvVars": True}))
    monkeypatch.setenv("MLFLOW_RUN_ID", step)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    return str(parent), str(step)


class TestWithoutAServer:
    @pytest.fixture(autouse=True)
    def _watched(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.progress = tmp_path / "progress"
        monkeypatch.setenv("HRF_PROGRESS_FILE", str(self.progress))
        self.set = monkeypatch.setenv

    def told(self) -> str:
        """The one problem that whoever watches is told."""
        (event,) = [json.loads(line) for line in self.progress.read_text().splitlines()]
        assert event["event"] == "tracking-problem"
        return str(event["problem"])

    def test_no_server_is_named(self, run: TrackedRun, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(subprocess, "run", None)
        follow(run)
        check_client()
        assert not self.progress.exists()

    def test_nobody_listens(self, run: TrackedRun, capfd: pytest.CaptureFixture[str]) -> None:
        self.set("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:{free_port()}")
        self.set("MLFLOW_TRACKING_TOKEN", f"token-{PASSWORD}")
        follow(run)
        told = self.told()
        assert "Connection refused" in told
        assert told.endswith("The run goes on; a later step logs what is missing.")
        said = "".join(capfd.readouterr())
        assert said == f"{told}\n"
        assert PASSWORD not in said

    def test_it_answers_500_and_is_asked_once(self, run: TrackedRun) -> None:
        """MLflow's client would try again for a minute, and might do twice what it did not hear of."""
        with failing_server() as (url, requests):
            self.set("MLFLOW_TRACKING_URI", url)
            follow(run)
        assert len(requests) == 1
        assert "500" in self.told()
        assert "\n" not in self.told()

    def test_it_takes_connections_and_says_nothing(self, run: TrackedRun) -> None:
        """Ended by the alarm, not by the patience with the client, and long before MLflow's own two minutes."""
        self.set("HRF_TRACKING_SECONDS", "1")
        with silent_server() as url:
            self.set("MLFLOW_TRACKING_URI", url)
            follow(run)
        assert "the server took longer than 1 s" in self.told()

    def test_a_client_that_hangs_while_it_loads_is_ended(
        self, run: TrackedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "mlflow.py").write_text("import time\ntime.sleep(600)\n")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(tracking.__file__).parents[3]}")
        monkeypatch.setattr(tracking, "LOADING_SECONDS", 1)
        self.set("HRF_TRACKING_SECONDS", "1")
        self.set("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        follow(run)
        assert "did not get done within 2 s" in self.told()

    def test_a_missing_client_is_said_by_the_first_step_only(
        self, run: TrackedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.set("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        monkeypatch.setattr(tracking, "find_spec", lambda name: None)
        check_client()
        assert self.told() == (
            "MLFLOW_TRACKING_URI is set, but MLflow's client is not installed: nothing is logged there. "
            "Fix: pip install 'hrf-pipelines[mlflow]'"
        )
        capsys.readouterr()
        follow(run)
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("given", ["0", "61", "1.5", "soon", ""])
    def test_a_patience_that_is_none_is_refused_before_the_run(self, given: str) -> None:
        self.set("HRF_TRACKING_SECONDS", given)
        with pytest.raises(ConfigError, match="HRF_TRACKING_SECONDS"):
            check_client()
