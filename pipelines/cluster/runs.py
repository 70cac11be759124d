"""Runs on a cluster, as the API describes them, and what is known of their tasks."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hrf.errors import ClusterError
from hrf.run_ids import settle_run_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipelines.cluster.connection import Cluster

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
UTC = datetime.UTC
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: What Kubeflow adds to a pipeline's own tasks: a driver before each, its container, attempts at it, the whole.
_MACHINERY = re.compile(r".*-driver|executor(\(\d+\))?|root|.*\(\d+\)")
#: A task that only holds the tasks which an exit handler guards.
_WRAPPER = "exit-handler-"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a run."""

    name: str
    """As in the pipeline, such as `prepare` or `epoch 0: window 10-17`."""
    state: str
    started: datetime.datetime | None
    finished: datetime.datetime | None
    error: str

    @property
    def seconds(self) -> float | None:
        """How long it took, if it has ended."""
        return (self.finished - self.started).total_seconds() if self.started and self.finished else None


def find_run(cluster: Cluster, name: str) -> Any:
    """A run by its id, the beginning of its id, its name, or its tag.

    Raises:
        ClusterError: There is none, or several.
    """
    if _ID.fullmatch(name):
        try:
            return get_run(cluster, name)
        except ClusterError as error:
            if error.status != 404:
                raise
    runs = list(list_runs(cluster))
    for matches in (_is_exactly, _begins_with):
        found = [run for run in runs if matches(run, name)]
        if len(found) == 1:
            return get_run(cluster, found[0].run_id)
        if found:
            ids = ", ".join(run.run_id for run in found[:3])
            raise ClusterError(
                cluster.host, problem=f"{len(found)} runs are called {name!r}", fix=f"give an id, such as {ids}"
            )
    raise ClusterError(
        cluster.host, problem=f"there is no run {name!r}", fix="`hrf runs --cluster` shows those there are"
    )


def get_run(cluster: Cluster, run_id: str) -> Any:
    """A run with its tasks."""
    return cluster.ask(cluster.api.runs.run_service_get_run, run_id=run_id)


def list_runs(cluster: Cluster, **arguments: Any) -> Iterator[Any]:
    """Runs, newest first, without their tasks."""
    call = cluster.api.runs.run_service_list_runs
    return cluster.list_all(call, "runs", sort_by="created_at desc", **arguments, **cluster.scoped())


def shown_runs(cluster: Cluster) -> Iterator[Any]:
    """The runs that the UI shows too: those that are not archived, newest first."""
    not_archived = {"operation": "NOT_EQUALS", "key": "storage_state", "string_value": "ARCHIVED"}
    return list_runs(cluster, filter=json.dumps({"predicates": [not_archived]}))


def experiment_names(cluster: Cluster) -> dict[str, str]:
    """The names of all experiments by their ids."""
    call = cluster.api.experiments.experiment_service_list_experiments
    found = cluster.list_all(call, "experiments", **cluster.scoped())
    return {entry.experiment_id: entry.display_name for entry in found}


def parameters_of(run: Any) -> dict[str, Any]:
    """The parameters that a run or a schedule was given."""
    return dict(run.runtime_config.parameters or {}) if run.runtime_config else {}


def names_in_bucket(run: Any) -> list[str]:
    """What a run may be called in its bucket, likeliest first: Kubeflow shows a tag as it was given, not expanded."""
    tag = str(parameters_of(run).get("run_tag") or "")
    scheduled = moment(run.scheduled_at)
    expanded = tag.replace("[[ScheduledTime]]", f"{scheduled:%Y%m%d%H%M%S}") if scheduled else tag
    return list(dict.fromkeys(settle_run_id(text, run.run_id) for text in (expanded, tag)))


def package_of(cluster: Cluster, run: Any) -> dict[str, Any] | None:
    """The pipeline spec that a run was made from, or None where its version is gone."""
    spec = run.pipeline_spec
    reference = run.pipeline_version_reference
    if not spec and reference:
        try:
            version = cluster.ask(
                cluster.api.pipelines.pipeline_service_get_pipeline_version,
                pipeline_id=reference.pipeline_id,
                pipeline_version_id=reference.pipeline_version_id,
            )
        except ClusterError as error:
            if error.status != 404:
                raise
            return None
        spec = version.pipeline_spec
    # With settings for Kubernetes in it, a package is two documents, and the API puts a layer around them.
    return dict(spec.get("pipeline_spec") or spec) if spec else None


def task_names(spec: Mapping[str, Any] | None) -> dict[str, str]:
    """The names of a pipeline's tasks as people know them, by the names that Kubeflow runs them under."""
    names: dict[str, str] = {}
    for dag in _dags(spec):
        for key, task in dag["tasks"].items():
            if not key.startswith(_WRAPPER):
                names.setdefault(key, task.get("taskInfo", {}).get("name") or key)
    return names


def count_tasks(spec: Mapping[str, Any] | None) -> int:
    """How many tasks a run of a pipeline has, sub-pipelines included; the shards of a loop count once."""
    if not spec:
        return 0
    components = spec.get("components", {})

    def count(dag: Mapping[str, Any]) -> int:
        number = 0
        for key, task in dag["tasks"].items():
            inner = components[task["componentRef"]["name"]].get("dag")
            number += (not key.startswith(_WRAPPER)) + (count(inner) if inner else 0)
        return number

    return count(spec["root"]["dag"])


def tasks_of(run: Any, names: Mapping[str, str]) -> list[Task]:
    """A run's tasks that have begun, in the order in which they did.

    Args:
        run: A run with its details.
        names: See `task_names`. Without any, every task counts but what Kubeflow adds.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    found = [
        Task(
            name=names.get(detail.display_name, detail.display_name),
            state=detail.state or "PENDING",
            started=moment(detail.start_time),
            finished=moment(detail.end_time),
            error=error_text(detail.error),
        )
        for detail in details
        if (detail.display_name in names if names else not _MACHINERY.fullmatch(detail.display_name or "root"))
    ]
    return sorted(found, key=lambda task: task.started or datetime.datetime.max.replace(tzinfo=UTC))


def error_text(error: Any) -> str:
    """The message of an error that the API reports, or ""."""
    return " ".join(str(error.message).split()) if error and error.message else ""


def moment(time: datetime.datetime | None) -> datetime.datetime | None:
    """A time of the API's, or None for the beginning of time, which says there that something has not happened yet."""
    if time is None or time.year < 1971:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _dags(spec: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not spec:
        return []
    return [spec["root"]["dag"], *(part["dag"] for part in spec.get("components", {}).values() if "dag" in part)]


def _is_exactly(run: Any, name: str) -> bool:
    return name in (run.run_id, run.display_name, *names_in_bucket(run))


def _begins_with(run: Any, name: str) -> bool:
    return bool(run.run_id.startswith(name))
