"""What a Kubeflow Pipelines server keeps, and how it answers: pipelines, experiments, runs, recurring runs.

Resources are the JSON that the API shows. What an operation refuses is refused as the server of release 2.17 does it,
or stricter; the comments name what was read there.
"""

from __future__ import annotations

import base64
import copy
import datetime
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kfp_api import robfig_cron
from tests.kfp_api.filters import WrongFilterError, passes, read_filter
from tests.kfp_api.validation import Validator

Resource = dict[str, Any]
#: The API's way of saying "not yet": the beginning of Unix time.
NEVER = "1970-01-01T00:00:00Z"
#: gRPC's codes, by what HTTP makes of them.
_CODES = {400: 3, 404: 5, 409: 6, 403: 7, 500: 13, 503: 14, 401: 16}
_NAMES = {
    "pipelines": ("pipeline_id", "name", "display_name", "description", "created_at", "namespace"),
    "pipeline_versions": ("pipeline_version_id", "name", "display_name", "created_at", "description"),
    "experiments": ("experiment_id", "display_name", "created_at", "description", "namespace", "storage_state"),
    "runs": (
        "run_id",
        "display_name",
        "created_at",
        "finished_at",
        "scheduled_at",
        "description",
        "storage_state",
        "experiment_id",
        "state",
        "recurring_run_id",
    ),
    "recurringRuns": ("recurring_run_id", "display_name", "created_at", "updated_at", "description"),
}
#: Only these have a name of version 1 beside that of version 2.
_ALIASES = {"experiments": {"name": "display_name"}, "runs": {"name": "display_name"}}


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)

    def body(self) -> Resource:
        """As the gateway writes it: the short message stands in the details."""
        code = _CODES[self.status]
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": str(self)}
        return {"code": code, "message": f"Failed: {self}: wrapped\ngithub.com/kubeflow/...", "details": [detail]}


@dataclass
class Frame:
    """How a run stands at one look at it."""

    state: str
    tasks: list[Resource] = field(default_factory=list)


@dataclass
class State:
    """Everything that the server keeps."""

    validator: Validator
    multi_user: bool = False
    plays: Callable[[Mapping[str, Any]], list[Frame]] | None = None
    """Makes the frames of a new run from the spec of its pipeline; without it a run stays pending."""
    largest_page: int = 200
    unseen: list[str] = field(default_factory=list)
    """Kinds whose next listing is empty, as when another client makes one right after it."""
    pipelines: list[Resource] = field(default_factory=list)
    versions: list[Resource] = field(default_factory=list)
    experiments: list[Resource] = field(default_factory=list)
    runs: list[Resource] = field(default_factory=list)
    recurring_runs: list[Resource] = field(default_factory=list)
    frames: dict[str, list[Frame]] = field(default_factory=dict)
    clock: datetime.datetime = datetime.datetime(2026, 11, 24, 3, 0, tzinfo=datetime.UTC)

    def now(self) -> str:
        """The time, a second later at every look, so that what is made later is newer."""
        self.clock += datetime.timedelta(seconds=1)
        return self.clock.isoformat().replace("+00:00", "Z")

    # Pipelines and versions.

    def create_pipeline(self, body: Resource) -> Resource:
        """An empty pipeline."""
        name = body.get("name") or body.get("display_name")
        if not name:
            raise RefusedError(400, "pipeline's name cannot be empty")
        self._check_namespace(body.get("namespace", ""))
        if any(entry["name"] == name and entry.get("namespace") == body.get("namespace") for entry in self.pipelines):
            raise RefusedError(409, f"pipeline {name} already exists")
        made = {
            "pipeline_id": str(uuid.uuid4()),
            "name": name,
            "display_name": body.get("display_name") or name,
            "description": body.get("description", ""),
            "created_at": self.now(),
            **({"namespace": body["namespace"]} if body.get("namespace") else {}),
        }
        self.pipelines.append(made)
        return made

    def upload_version(self, query: Mapping[str, str], file: bytes) -> Resource:
        """A version, from a multipart upload."""
        if not query.get("pipelineid"):
            raise RefusedError(400, "Failed to create a pipeline version")
        pipeline = self._get(self.pipelines, "pipeline_id", query["pipelineid"], "pipeline")
        name = query.get("name") or query.get("display_name")
        if not name or len(name) > 127:
            raise RefusedError(400, "PipelineVersion.Name length cannot exceed 127")
        # In the mode in which versions are Kubernetes objects, their names are Kubernetes names.
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
            raise RefusedError(400, "Invalid PipelineVersion name")
        spec = _read_package(file)
        if any(entry["name"] == name and entry["pipeline_id"] == pipeline["pipeline_id"] for entry in self.versions):
            raise RefusedError(409, "Failed to create a pipeline version")
        made = {
            "pipeline_id": pipeline["pipeline_id"],
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": query.get("display_name") or name,
            "description": query.get("description", ""),
            "created_at": self.now(),
            "pipeline_spec": spec,
        }
        self.versions.append(made)
        return made

    def get_version(self, pipeline_id: str, version_id: str) -> Resource:
        """One version."""
        found = self._get(self.versions, "pipeline_version_id", version_id, "pipeline version")
        if found["pipeline_id"] != pipeline_id:
            raise RefusedError(404, f"pipeline version {version_id} not found")
        return found

    # Experiments.

    def create_experiment(self, body: Resource) -> Resource:
        """An experiment."""
        name, namespace = body.get("display_name"), body.get("namespace", "")
        if not name:
            raise RefusedError(400, "Experiment name is empty. Please specify a valid experiment name")
        self._check_namespace(namespace)
        if any(entry["display_name"] == name and entry.get("namespace", "") == namespace for entry in self.experiments):
            raise RefusedError(409, f"Failed to create a new experiment. The name {name} already exists")
        made = {
            "experiment_id": str(uuid.uuid4()),
            "display_name": name,
            "description": body.get("description", ""),
            "created_at": self.now(),
            "storage_state": "AVAILABLE",
            "last_run_created_at": NEVER,
            **({"namespace": namespace} if namespace else {}),
        }
        self.experiments.append(made)
        return made

    # Runs.

    def create_run(self, body: Resource) -> Resource:
        """A run, pending at first."""
        if not body.get("display_name"):
            raise RefusedError(400, "The run name is empty. Please specify a valid name")
        self._usable_experiment(body)
        spec = self._check_source(body)
        now = self.now()
        made = {
            **copy.deepcopy(body),
            "run_id": str(uuid.uuid4()),
            "storage_state": "AVAILABLE",
            "state": "PENDING",
            "created_at": now,
            "scheduled_at": now,
            "finished_at": NEVER,
            "state_history": [{"update_time": now, "state": "PENDING"}],
        }
        self.runs.append(made)
        if self.plays:
            self.frames[made["run_id"]] = self.plays(spec)
        return made

    def get_run(self, run_id: str) -> Resource:
        """A run, which is one frame further at every look."""
        run = self._get(self.runs, "run_id", run_id, "run")
        frames = self.frames.get(run_id, [])
        if frames:
            frame = frames.pop(0)
            if frame.state != run["state"]:
                run["state_history"] = [*run["state_history"], {"update_time": self.now(), "state": frame.state}]
            run["state"] = frame.state
            run["run_details"] = {"task_details": [{"run_id": run_id, **task} for task in frame.tasks]}
            if frame.state in ("SUCCEEDED", "FAILED"):
                run["finished_at"] = self.now()
        return run

    def replay(self, recorded: Resource) -> Resource:
        """Have a run that a real server had, which is answered as that server did."""
        self.runs.append(copy.deepcopy(recorded))
        return recorded

    def fire(self, name: str, *, expand: bool) -> Resource:
        """What the controller does when a schedule's time has come.

        Args:
            name: The schedule.
            expand: Whether the run shows its parameters with placeholders expanded.
        """
        schedule = next(entry for entry in self.recurring_runs if entry["display_name"] == name)
        run = self.create_run(
            {
                "display_name": f"{name}x7k2p-1-123",
                "experiment_id": schedule["experiment_id"],
                "pipeline_version_reference": schedule["pipeline_version_reference"],
                "runtime_config": copy.deepcopy(schedule["runtime_config"]),
                "service_account": schedule["service_account"],
            }
        )
        run["recurring_run_id"] = schedule["recurring_run_id"]
        run["scheduled_at"] = "2026-11-25T03:00:00Z"
        if expand:
            parameters = run["runtime_config"]["parameters"]
            parameters["run_tag"] = parameters["run_tag"].replace("[[ScheduledTime]]", "20261125030000")
        return run

    # Recurring runs.

    def create_recurring_run(self, body: Resource) -> Resource:
        """A recurring run."""
        if not body.get("display_name"):
            raise RefusedError(400, "Recurring run name is empty. Please specify a valid name")
        self._usable_experiment(body)
        self._check_source(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        trigger = body.get("trigger") or {}
        if len(trigger) != 1:
            raise RefusedError(400, "a recurring run needs one trigger")
        try:
            robfig_cron.parse(trigger["cron_schedule"]["cron"])
        except (KeyError, ValueError) as error:
            raise RefusedError(400, f"Schedule cron is not a supported format. Error: {error}") from error
        is_on = body.get("mode") == "ENABLE"
        made = {
            **copy.deepcopy(body),
            "recurring_run_id": str(uuid.uuid4()),
            "status": "ENABLED" if is_on else "DISABLED",
            "created_at": self.now(),
            "updated_at": self.now(),
        }
        self.recurring_runs.append(made)
        return made

    def switch_recurring_run(self, recurring_run_id: str, *, on: bool) -> Resource:
        """Enable or disable one."""
        found = self._get(self.recurring_runs, "recurring_run_id", recurring_run_id, "recurring run")
        found["status"], found["mode"] = ("ENABLED", "ENABLE") if on else ("DISABLED", "DISABLE")
        return {}

    def delete_recurring_run(self, recurring_run_id: str, propagation_policy: str) -> Resource:
        """Delete one. Its runs' workflows belong to it, so that Kubernetes deletes those too unless told to orphan."""
        found = self._get(self.recurring_runs, "recurring_run_id", recurring_run_id, "recurring run")
        self.recurring_runs.remove(found)
        if propagation_policy != "ORPHAN":
            self.runs = [
                run
                for run in self.runs
                if run.get("recurring_run_id") != recurring_run_id or run["state"] in ("SUCCEEDED", "FAILED")
            ]
        return {}

    # Listing.

    def list(self, kind: str, resources: list[Resource], query: Mapping[str, str]) -> Resource:
        """A page of resources.

        Args:
            kind: What the answer calls them.
            resources: All of them.
            query: Filter, order, page and scope.
        """
        namespace = query.get("namespace", "")
        if kind not in ("pipeline_versions",) and "experiment_id" not in query:
            self._check_namespace(namespace)
        fields = {name: name for name in _NAMES[kind]} | _ALIASES.get(kind, {})
        try:
            predicates = read_filter(query["filter"], self.validator, fields) if query.get("filter") else []
        except WrongFilterError as error:
            raise RefusedError(400, str(error)) from error
        found = [entry for entry in resources if passes(entry, predicates)]
        if kind in self.unseen:
            self.unseen.remove(kind)
            found = []
        if "experiment_id" in query:
            found = [entry for entry in found if entry["experiment_id"] == query["experiment_id"]]
        name, _, direction = query.get("sort_by", "").lower().partition(" ")
        if (name and name not in fields) or direction not in ("", "asc", "desc"):
            raise RefusedError(400, f"Invalid sorting field: {name!r} {direction!r}")
        found.sort(key=lambda entry: entry[fields[name or "created_at"]], reverse=direction == "desc")
        # A token belongs to its listing: with another filter or order it is refused.
        listing = {"kind": kind, "filter": query.get("filter", ""), "sort_by": query.get("sort_by", "")}
        start = _read_token(query.get("page_token", ""), listing)
        size = int(query.get("page_size", "0"))
        if size < 0:
            raise RefusedError(400, "The page size should be greater than 0")
        end = start + min(size or 20, self.largest_page)
        page: Resource = {kind: [_listed(entry) for entry in found[start:end]], "total_size": len(found)}
        if end < len(found):
            page["next_page_token"] = base64.b64encode(json.dumps({**listing, "start": end}).encode()).decode()
        return page

    def _check_namespace(self, namespace: str) -> None:
        if self.multi_user and not namespace:
            raise RefusedError(400, "An experiment cannot have an empty namespace in multi-user mode")
        if namespace and not self.multi_user:
            raise RefusedError(400, "In single-user mode, cannot filter by namespace")

    def _usable_experiment(self, body: Resource) -> None:
        experiment = self._get(self.experiments, "experiment_id", body.get("experiment_id", ""), "experiment")
        if experiment["storage_state"] == "ARCHIVED":
            raise RefusedError(400, "the experiment is archived")

    def _check_source(self, body: Resource) -> Resource:
        """The spec of the pipeline version that is asked for, whose inputs the parameters have to fit."""
        reference = body.get("pipeline_version_reference") or {}
        if body.get("pipeline_spec") or not reference.get("pipeline_version_id"):
            raise RefusedError(400, "Failed to parse the pipeline source: a pinned version is wanted")
        version = self.get_version(reference.get("pipeline_id", ""), reference["pipeline_version_id"])
        spec = version["pipeline_spec"].get("pipeline_spec") or version["pipeline_spec"]
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters", {})
        if extra := sorted(set(given) - set(inputs)):
            raise RefusedError(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
        for name, parameter in inputs.items():
            if name not in given and not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise RefusedError(400, f"parameter {name} is not optional, yet has no value")
            if name in given and parameter["parameterType"] == "STRING" and not isinstance(given[name], str):
                raise RefusedError(400, f"input parameter {name} requires type string")
            if name in given and parameter.get("literals") and given[name] not in parameter["literals"]:
                allowed = f"does not match any of the allowed literal values: {parameter['literals']}"
                raise RefusedError(400, f'input parameter "{name}" value {given[name]!r} {allowed}')
        return spec

    def _get(self, resources: list[Resource], key: str, value: str, what: str) -> Resource:
        found = next((entry for entry in resources if entry[key] == value), None)
        if found is None:
            raise RefusedError(404, f"{what} {value} not found")
        return found


def _read_package(file: bytes) -> Resource:
    """The spec that an uploaded package holds, as the server reads it and shows it afterwards."""
    try:
        documents = [document for document in yaml.safe_load_all(file.decode()) if document is not None]
        spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        platforms = [json_format.ParseDict(other, pipeline_spec_pb2.PlatformSpec()) for other in documents[1:]]
    except Exception as error:
        raise RefusedError(400, f"Failed to create a pipeline version: {error}") from error
    if spec.schema_version != "2.1.0" or not re.fullmatch(r"[a-z0-9][-a-z0-9]*", spec.pipeline_info.name):
        raise RefusedError(400, "Failed to create a pipeline version: its schema or its name")
    if len(platforms) > 1:
        raise RefusedError(400, "multiple platform specs provided")
    shown = json_format.MessageToDict(spec)
    # With settings for a platform, the API puts both below one roof.
    return {"pipeline_spec": shown, "platform_spec": json_format.MessageToDict(platforms[0])} if platforms else shown


def _read_token(token: str, listing: Resource) -> int:
    if not token:
        return 0
    try:
        content = json.loads(base64.b64decode(token, validate=True))
        start = content.pop("start")
    except (ValueError, KeyError) as error:
        raise RefusedError(400, "Invalid package token") from error
    if content != listing:
        raise RefusedError(400, "page token does not match the supplied sort by and/or filtering criteria")
    return start


def _listed(entry: Resource) -> Resource:
    return {name: value for name, value in entry.items() if name != "run_details"}
