"""Tells an MLflow server what it lacks of a run, which comes as JSON on the input of `python -m` with this module.

Where Kubeflow's MLflow plugin has made an MLflow run for its own run, that one is added to. Elsewhere, and for each of
several runs in one of Kubeflow's, as in a comparison, there is one MLflow run a run, found again by its tag.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from hrf.report.tracking import SERVER, Point, TrackedRun, patience

KUBEFLOW = "KFP_MLFLOW_CONFIG"
"""Environment variable of Kubeflow's plugin: JSON with `parentRunId`, the MLflow run of its run, and `experimentId`."""
RUN_TAG, CURVES_TAG, PARENT_TAG = "hrf.records", "hrf.curves/", "mlflow.parentRunId"
# What a server takes in one request (MLflow's REST API, `runs/log-batch`), and how long a value could once be.
MOST_METRICS, MOST_OTHERS, LONGEST_PARAMETER = 1000, 100, 500
Item = TypeVar("Item")


def main() -> None:
    """Tell it, or be ended by the alarm; print where the run is to be seen."""
    told = json.load(sys.stdin)
    run = TrackedRun(**{**told, "points": [Point(**point) for point in told["points"]]})
    # Unlike a limit on each request, it holds for all of them together, and whatever they wait for.
    signal.alarm(patience())
    sys.stdout.write(f"{tell(MlflowClient(), run)}\n")


def tell(client: MlflowClient, run: TrackedRun) -> str:
    """Bring an MLflow run up to what is known of a run.

    Returns:
        The page that shows it; "" for a store that has no pages, and where nothing was to be told.

    Raises:
        MlflowException: The server can't be reached or refuses. What has been logged by then stays.
    """
    run_id, is_ours = find_or_create(client, run)
    if not run_id:
        return ""
    found = client.get_run(run_id)
    if found.info.status != "RUNNING":
        if not run.points:
            return ""
        if is_ours:
            client.update_run(run_id, status="RUNNING")
    add_missing(client, found, run)
    if is_ours and run.ended:
        client.set_terminated(run_id, status=run.ended)
    return page_of(found)


def find_or_create(client: MlflowClient, run: TrackedRun) -> tuple[str, bool]:
    """The MLflow run of a run, "" if there is none nor a point to make one for; and whether it is ours to end."""
    given = json.loads(os.environ.get(KUBEFLOW) or "{}")
    if given.get("parentRunId"):
        return _within_kubeflows(client, run, given["parentRunId"], given["experimentId"])
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if not experiment_id:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is None and not run.points:
            return "", True
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    return _own(client, run, experiment_id), True


def _own(client: MlflowClient, run: TrackedRun, experiment_id: str, **tags: str) -> str:
    """The MLflow run that was made for a run, made now if there is none and there are points."""
    for found in client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run.records}'", max_results=1):
        return str(found.info.run_id)
    if not run.points:
        return ""
    made = client.create_run(experiment_id, run_name=run.run_id, tags={RUN_TAG: run.records, **tags})
    return str(made.info.run_id)


def _within_kubeflows(client: MlflowClient, run: TrackedRun, parent: str, experiment_id: str) -> tuple[str, bool]:
    """The MLflow run of Kubeflow's run; or, where that holds several of ours, one below it for each.

    Each says on the parent that it is there before it looks for others: of two at the same time, at least one sees the
    other, and so never do both take the parent.
    """
    mine = f"{CURVES_TAG}{run.experiment}/{run.run_id}"
    settled = client.get_run(parent).data.tags.get(mine, "")
    if not settled and run.points:
        client.set_tag(parent, mine, "")
        others = {name for name in client.get_run(parent).data.tags if name.startswith(CURVES_TAG)} - {mine}
        settled = _own(client, run, experiment_id, **{PARENT_TAG: parent}) if others else parent
        client.set_tag(parent, mine, settled)
    return settled, settled != parent


def add_missing(client: MlflowClient, found: Run, run: TrackedRun) -> None:
    """Log what an MLflow run lacks of a run, the smallest first."""
    run_id, now = found.info.run_id, int(time.time() * 1000)
    parameters = [
        Param(name, value if len(value) <= LONGEST_PARAMETER else f"{value[: LONGEST_PARAMETER - 1]}…")
        for name, value in run.parameters.items()
        if name not in found.data.params
    ]
    tags = [RunTag(name, value) for name, value in run.tags.items() if found.data.tags.get(name) != value]
    # Of a point the first number comes last: where it is, the whole point is.
    metrics = [
        Metric(f"{point.group}/{name}", value, now, point.epoch)
        for point in _missing_points(client, run_id, run.points)
        for name, value in reversed(list(point.numbers.items()))
    ]
    for some in _parts(parameters, MOST_OTHERS):
        client.log_batch(run_id, params=some)
    for other in _parts(tags, MOST_OTHERS):
        client.log_batch(run_id, tags=other)
    for points in _parts(metrics, MOST_METRICS):
        client.log_batch(run_id, metrics=points)
    _upload_missing(client, run_id, run.files)


def _missing_points(client: MlflowClient, run_id: str, points: Iterable[Point]) -> list[Point]:
    logged: dict[str, set[int]] = {}
    missing = []
    for point in points:
        name = f"{point.group}/{next(iter(point.numbers))}"
        if name not in logged:
            logged[name] = {int(metric.step) for metric in client.get_metric_history(run_id, name)}
        if point.epoch not in logged[name]:
            missing.append(point)
    return missing


def _upload_missing(client: MlflowClient, run_id: str, files: Mapping[str, str]) -> None:
    folders = {os.path.dirname(name) for name in files}
    there = {found.path for folder in folders for found in client.list_artifacts(run_id, folder or None)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in files.keys() - there:
            # MLflow names a file as it is named here.
            copy = shutil.copyfile(files[name], Path(scratch) / os.path.basename(name))
            client.log_artifact(run_id, str(copy), os.path.dirname(name) or None)


def _parts(items: list[Item], size: int) -> Iterator[list[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def page_of(found: Run) -> str:
    """The page of an MLflow run, without a password; "" for a store that has no pages."""
    server = urlsplit(os.environ[SERVER])
    if server.scheme not in ("http", "https"):
        return ""
    place = f"/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
    bare = server._replace(netloc=server.netloc.rpartition("@")[2], path=f"{server.path.rstrip('/')}/")
    return urlunsplit(bare._replace(fragment=place))


def _in_one_line(kind: type[BaseException], error: BaseException, _: object) -> None:
    sys.stderr.write(f"{kind.__name__}: {' '.join(str(error).split())[:LONGEST_PARAMETER]}\n")


if __name__ == "__main__":
    sys.excepthook = _in_one_line
    main()
