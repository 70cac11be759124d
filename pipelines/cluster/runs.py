"""Runs on a cluster, as the API describes them, and what is known of their tasks."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrf.errors import ClusterError
from hrf.promotion.run_ids import settle_run_id
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.package import dags_of
from hrf_pipelines.placement import ROLES

#: What a run or a task can end as. The last three are ours: Kubeflow says FAILED of what somebody terminated, and
#: nothing of tasks that never began, or that ended when it had stopped to tell.
FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "TERMINATED", "NOT_RUN", "NOT_TOLD"})
UTC = datetime.UTC
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: What Kubeflow adds to a pipeline's own tasks: a driver before each, its container, attempts at it, loops, the whole.
_MACHINERY = re.compile(
    r".*-driver|executor|root|exit-handler-\d+(\.onExit)?|for-loop-\d+|iteration-item|iteration-iterations(\(\d+:\d+\))?"
    r"|.*\(\d+\)"
)
#: A task that only holds the tasks which an exit handler guards.
_WRAPPER = "exit-handler-"
#: The sub-pipeline of an epoch, or of several: what a package calls it, and what Kubeflow runs it under.
_EPOCH_TITLE = re.compile(r".*?epochs? [\d-]+(, replica \d+)?")
_EPOCH_KEY = re.compile(r"epoch(s?)(?:-(\d+))?")
#: The pod that a task's entry names, which begins with the name of the run's Workflow.
_POD = re.compile(r"(.+)-\d+")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a run."""

    task_id: str
    name: str
    """As in the pipeline, with its epoch: `prepare`, `epoch 0: sample`."""
    state: str
    """Of `FINAL`, or PENDING or RUNNING."""
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


def default_parameters(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a pipeline's parameters are where a run does not name them."""
    defined = (spec or {}).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {name: value["defaultValue"] for name, value in defined.items() if "defaultValue" in value}


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
    for dag in dags_of(spec) if spec else ():
        for key, task in dag["tasks"].items():
            if not key.startswith(_WRAPPER):
                names.setdefault(key, task.get("taskInfo", {}).get("name") or key)
    return names


def count_tasks(spec: Mapping[str, Any] | None) -> int:
    """How many tasks of a pipeline do something, those of sub-pipelines included; the shards of a loop count once."""
    if not spec:
        return 0
    components = spec.get("components", {})

    def count(dag: Mapping[str, Any]) -> int:
        inner = (components[task["componentRef"]["name"]].get("dag") for task in dag["tasks"].values())
        return sum(count(group) if group else 1 for group in inner)

    return count(spec["root"]["dag"])


def tasks_of(run: Any, spec: Mapping[str, Any] | None) -> list[Task]:
    """A run's tasks that do something, in the order in which they began; then what was never begun.

    Kubeflow does not say which sub-pipeline a task is in. But those of epochs follow each other, so the times tell.

    Without the run's pipeline, every task counts but what Kubeflow adds.
    """
    entries = [entry for entry in _entries(run) if entry.display_name]
    names, groups = task_names(spec), _groups(spec)
    whole = _workflow_name(entries)

    def is_own(key: str) -> bool:
        return key in names if names else not (_MACHINERY.fullmatch(key) or key == whole)

    def epoch_of(key: str) -> str:
        """What to call an epoch's sub-pipeline; "" for any other task."""
        if names:
            match = _EPOCH_TITLE.match(names.get(key, "")) if key in groups else None
            return match[0] if match else ""
        match = _EPOCH_KEY.fullmatch(key)
        number = int(match[2] or 1) if match else 0
        return "" if not match else f"epochs, part {number}" if match[1] else f"epoch {number - 1}"

    own = [entry for entry in entries if is_own(entry.display_name)]
    epochs = [(epoch_of(entry.display_name), entry) for entry in own if entry.state and epoch_of(entry.display_name)]
    found = []
    for entry in own:
        key = entry.display_name
        title = names.get(key, key.replace("-", " "))
        if key in groups or epoch_of(key):
            if entry.state:
                continue
            # Of a group that was left out, Kubeflow does not tell what is in it.
            title = epoch_of(key) or ", ".join(names[each] for each in groups[key] if each not in groups)
        else:
            # What was left out has the moment of its group's end; only the package tells it from what is beside it.
            inside = [
                name
                for name, epoch in epochs
                if _within(entry, epoch) and (key in groups.get(epoch.display_name, ()) if names else entry.state)
            ]
            # Replicas are at work side by side, and no time tells them apart.
            unknown = len(inside) > 1 and "replica" in inside[0]
            title = ": ".join([*(["a replica"] if unknown else inside[:1]), title])
        found.append((key, _task(run, entry, title)))
    order, last = _order(spec), datetime.datetime.max.replace(tzinfo=UTC)

    def place(item: tuple[str, Task]) -> tuple[Any, ...]:
        key, task = item
        known = key if key in order else "summarize"
        return task.started or last, order.index(known) if known in order else len(order), task.name

    return [task for _, task in sorted(found, key=place)]


def stands_still(run: Any) -> bool:
    """Whether Kubeflow stopped to tell of a run's tasks before they ended, as past 1 MiB of them or in an outage."""
    return run.state in FINAL and any(entry.state in ("RUNNING", "PENDING") for entry in _entries(run))


def state_of(run: Any) -> str:
    """How a run stands; TERMINATED where Kubeflow says FAILED of one that was told to end."""
    state = str(run.state or "PENDING")
    return "TERMINATED" if state == "FAILED" and _terminated_at(run) else state


def last_begin(run: Any) -> datetime.datetime | None:
    """When a run last began to run: when it was made, started or retried."""
    times = [moment(entry.update_time) for entry in run.state_history or [] if entry.state == "RUNNING"]
    return max(filter(None, [moment(run.created_at), *times]), default=None)


def waiting_pods(run: Any, now: datetime.datetime) -> dict[str, float]:
    """The seconds for which pods have been waiting to begin, by their tasks' ids."""
    pending = {entry.task_id: moment(entry.start_time) for entry in _entries(run) if entry.state == "PENDING"}
    return {task: (now - since).total_seconds() for task, since in pending.items() if since}


def _entries(run: Any) -> list[Any]:
    return list((run.run_details.task_details if run.run_details else None) or [])


def _order(spec: Mapping[str, Any] | None) -> list[str]:
    """A pipeline's tasks, each after those that it waits for; without one, the steps in the order of a run."""
    if not spec:
        return [step.replace("_", "-") for step in ROLES]

    def walk(dag: Mapping[str, Any]) -> Iterator[str]:
        left = dict(dag["tasks"])
        while left:
            for key in [key for key, task in left.items() if not {*task.get("dependentTasks", [])} & {*left}]:
                yield key
                yield from walk(spec["components"][left[key]["componentRef"]["name"]].get("dag") or {"tasks": {}})
            left = {key: task for key, task in left.items() if {*task.get("dependentTasks", [])} & {*left}}

    return list(walk(spec["root"]["dag"]))


def _workflow_name(entries: Sequence[Any]) -> str:
    """The name of a run's Workflow, which is also that of the task that holds all others."""
    pods = (child.pod_name for entry in entries for child in entry.child_tasks or [] if child.pod_name)
    match = _POD.fullmatch(next(pods, ""))
    return match[1] if match else ""


def _task(run: Any, entry: Any, title: str) -> Task:
    started, finished, ended = moment(entry.start_time), moment(entry.end_time), _terminated_at(run)
    # What was left out has no state, and one moment for its start and its end.
    state = entry.state or ("NOT_RUN" if finished else "PENDING")
    if state == "FAILED" and ended and finished and finished >= ended:
        state = "TERMINATED"
    if run.state in FINAL and (state not in FINAL or (state == "NOT_RUN" and run.state == "SUCCEEDED")):
        state = "NOT_TOLD"
    if state in ("NOT_RUN", "NOT_TOLD"):
        started = finished = None
    return Task(
        task_id=entry.task_id or "",
        name=title,
        state=state,
        started=started,
        finished=finished,
        error=error_text(entry.error),
    )


def _terminated_at(run: Any) -> datetime.datetime | None:
    """When a run was told to end, if that was what it ended from."""
    history = run.state_history or []
    ends = [index for index, entry in enumerate(history) if entry.state == "CANCELING"]
    return moment(history[ends[-1]].update_time) if ends and history[-1].state in ("CANCELING", "FAILED") else None


def _within(entry: Any, epoch: Any) -> bool:
    start, first, last = (moment(time) for time in (entry.start_time, epoch.start_time, epoch.end_time))
    return bool(start and first and first <= start and (last is None or start <= last))


def _groups(spec: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """The tasks that only hold others, by the names that Kubeflow runs them under, with all that they hold."""
    components = (spec or {}).get("components", {})

    def below(dag: Mapping[str, Any]) -> Iterator[str]:
        for key, task in dag["tasks"].items():
            yield key
            yield from below(components[task["componentRef"]["name"]].get("dag") or {"tasks": {}})

    return {
        key: tuple(below(inner))
        for dag in (dags_of(spec) if spec else ())
        for key, task in dag["tasks"].items()
        if (inner := components[task["componentRef"]["name"]].get("dag"))
    }


def error_text(error: Any) -> str:
    """The message of an error that the API reports, or ""."""
    return " ".join(str(error.message).split()) if error and error.message else ""


def moment(time: datetime.datetime | None) -> datetime.datetime | None:
    """A time of the API's, or None for the beginning of time, which says there that something has not happened yet."""
    if time is None or time.year < 1971:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _is_exactly(run: Any, name: str) -> bool:
    return name in (run.run_id, run.display_name, *names_in_bucket(run))


def _begins_with(run: Any, name: str) -> bool:
    return bool(run.run_id.startswith(name))
