"""What the Workflow of a run tells: why steps failed, and what pods wait for.

Kubeflow's own API never says. On a cluster a run is a Workflow, an object of Kubernetes in which Argo writes down how
each pod ended; whoever may read that object can say why. The exit step reads it with the run's own account and the
command line with the user's, and both understand it by the functions here, which talk to nobody.

A node's name is the way to it, as in `NAME(0).root(0).exit-handler-1(0).epoch-2(0).sample(0).executor(0)`: groups, the
task, and its container, each with the number of the attempt.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hrf.errors import ArtifactError
from hrf.promotion.records import Failure, Reason, ReasonKind, place_words

Object = Mapping[str, Any]
#: Phases of a node that went wrong.
_BAD = frozenset({"Failed", "Error"})
_DRIVER = "-driver"
#: What Kubeflow calls the whole of a pipeline.
_ROOT = "root"
#: An exit handler's task runs below this.
_ON_EXIT = "onExit"
#: What Argo counts attempts with; the parts of a loop have two numbers.
_ATTEMPT = re.compile(r"\(\d+\)$")
#: The images that the project makes; somebody's own may have any name.
_ROLE = re.compile(r"(?:^|/)hrf-(control|worker|reward)(?:[:@]|$)")
#: The sub-pipelines of single epochs as Kubeflow names them, where nothing else says which epoch it is.
_EPOCH_KEY = re.compile(r"epoch(?:-(\d+))?")
#: What stands before a step's name in the titles of tasks outside of them.
_EPOCH_TITLE = re.compile(r"epochs? \d+[^:]*: ")
_IMAGE = re.compile(
    r"ImagePullBackOff|ErrImagePull|InvalidImageName|ErrImageNeverPull|ImageInspectError|RegistryUnavailable"
)
#: How a kubelet, a scheduler and a node that shuts down put it.
_EVICTED = re.compile(
    r"low on resource|had condition|[Pp]reempt|node shutdown|Usage of EmptyDir|ephemeral.storage|Pod was rejected"
)
#: Exit codes of what was ended by SIGKILL or SIGTERM.
_KILLED = ("137", "143")
_SHUTDOWN = re.compile(r"shutdown with strategy|Stopped with strategy|Step exceeded its deadline")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A pod that has not begun."""

    step: str
    epoch: int | None
    replica: int | None
    pod: str
    since: float
    """Since when, in seconds since 1970."""
    why: str
    """What for; "" where Kubernetes has not said."""

    @property
    def where(self) -> str:
        """Such as `sample, epoch 0`."""
        return place_words(self.step, self.epoch, self.replica)


def read_nodes(workflow: Object) -> dict[str, dict[str, Any]]:
    """The nodes of a Workflow by their ids; past 1 MiB Argo keeps them compressed.

    Raises:
        ArtifactError: They are kept elsewhere, or can't be read.
    """
    status = workflow.get("status") or {}
    packed = status.get("compressedNodes")
    if not packed:
        if status.get("offloadNodeStatusVersion"):
            raise ArtifactError(
                _name_of(workflow),
                problem="Argo keeps this Workflow's nodes in its own database",
                producer="Argo",
                fix="look at the run in the UI",
            )
        return dict(status.get("nodes") or {})
    try:
        return dict(json.loads(gzip.decompress(base64.b64decode(packed))))
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(
            _name_of(workflow), problem=f"its nodes can't be unpacked ({error})", producer="Argo", fix="look at the run"
        ) from error


def find_reasons(workflow: Object, pods: Iterable[Object] = (), failures: Sequence[Failure] = ()) -> list[Reason]:
    """Why the steps of a run failed, the first one first. A step that was tried again and then succeeded is none.

    Args:
        workflow: The run's Workflow, as the API server has it.
        pods: Its pods, if they are known: they tell limits and whether a container ever began.
        failures: What failing steps have written down themselves.

    Raises:
        ArtifactError: The Workflow can't be read.
    """
    graph = _Graph(workflow, pods)
    failing = [nodes[-1] for nodes in graph.attempts().values() if nodes[-1].get("phase") in _BAD]
    failing.sort(key=lambda node: (str(node.get("startedAt") or ""), str(node.get("name"))))
    # What fails in the exit handler is the reason only where nothing else is.
    own = [node for node in failing if _ON_EXIT not in _split(graph.name, node)] or failing
    reasons = [_explain(graph, node, failures) for node in own]
    if _is_terminated(workflow) and not any(reason.kind == "terminated" for reason in reasons):
        return [*reasons, _terminated(step="", epoch=None, pod="", message="", started=0.0)]
    status = workflow.get("status") or {}
    if not reasons and status.get("phase") in _BAD and status.get("message"):
        message = _one_line(str(status["message"]))
        about: dict[str, Any] = {"step": "", "epoch": None, "pod": "", "started": 0.0}
        return [Reason(kind="other", problem=message, fix="", message=message, **about)]
    return reasons


def find_waiting(workflow: Object) -> list[Waiting]:
    """The pods of a Workflow that have not begun, the one that waits longest first.

    Raises:
        ArtifactError: The Workflow can't be read.
    """
    graph = _Graph(workflow, ())
    waiting = []
    for node in (nodes[-1] for nodes in graph.attempts().values() if nodes[-1].get("phase") == "Pending"):
        place, _ = graph.place(node)
        why, since = _awaited_words(_one_line(str(node.get("message") or ""))), _seconds(node.get("startedAt"))
        waiting.append(Waiting(**place, pod=graph.pod_name(node), since=since, why=why))
    return sorted(waiting, key=lambda entry: entry.since)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a pod was given; "" and 0 where that isn't known, or there is no limit."""

    memory: str
    seconds: int
    role: str
    """Of its image, which is what the placement calls its part."""

    def field(self, step: str, name: str) -> str:
        """The placement's field for a step."""
        own = f"`steps.{_component(step)}.{name}`"
        return f"`{self.role}.{name}` in the placement, or {own} there" if self.role else f"{own} in the placement"


def _component(title: str) -> str:
    """The component that a task runs, by its title, such as `evaluate and promote`."""
    return title.rpartition(": ")[2].removesuffix(" and promote").replace(" ", "_")


class _Graph:
    """The pods of a Workflow, and what is known of the tasks that they belong to."""

    def __init__(self, workflow: Object, pods: Iterable[Object]) -> None:
        self.workflow, self.name = workflow, _name_of(workflow)
        nodes = read_nodes(workflow).values()
        self.pod_nodes = [node for node in nodes if node.get("type") == "Pod"]
        self._tasks = dict(told for node in self.pod_nodes if (told := self._told_task(node)))
        self._pods = {
            (pod["metadata"].get("annotations") or {}).get("workflows.argoproj.io/node-id"): pod for pod in pods
        }

    def attempts(self) -> dict[tuple[str, ...], list[Object]]:
        """The pods by what they are attempts at, earlier ones first."""
        found: dict[tuple[str, ...], list[Object]] = {}
        for node in sorted(self.pod_nodes, key=lambda node: (str(node.get("startedAt") or ""), str(node.get("name")))):
            found.setdefault(_split(self.name, node), []).append(node)
        return found

    def place(self, node: Object) -> tuple[dict[str, Any], bool]:
        """A pod's task with its epoch and replica, and whether the pod is Kubeflow's driver of it."""
        path = _split(self.name, node)
        is_driver = path[-1].endswith(_DRIVER)
        *groups, key = (*path[:-1], path[-1].removesuffix(_DRIVER)) if is_driver else path[:-1] or path
        task_path = (*groups, key)
        if task_path == (_ROOT,):
            return {"step": "", "epoch": None, "replica": None}, is_driver
        named = (self._tasks.get(task_path) or {}).get("taskInfo", {}).get("name")
        title = str(named or re.sub(r"-\d+$", "", key).replace("-", " "))
        if not _EPOCH_KEY.fullmatch(key):
            title = _EPOCH_TITLE.sub("", title)
        epoch, replica = self._number("epoch", task_path), self._number("replica", task_path)
        keys = [match for key in task_path if (match := _EPOCH_KEY.fullmatch(key))]
        if keys and not self._tasks:
            epoch = int(keys[-1][1] or 1) - 1
        return {"step": title, "epoch": epoch, "replica": replica}, is_driver

    def asked(self, node: Object) -> _Asked:
        """What a pod was given, by itself or else by what Kubeflow's driver settled for it."""
        spec = (self.pod(node) or {}).get("spec") or _json(_parameter(node, "pod-spec-patch"))
        containers = {each.get("name"): each for each in spec.get("containers") or []}
        main: Object = containers.get("main") or {}
        memory = ((main.get("resources") or {}).get("limits") or {}).get("memory", "")
        role = _ROLE.search(str(main.get("image", "")))
        seconds = int(spec.get("activeDeadlineSeconds") or 0)
        return _Asked(memory=str(memory), seconds=seconds, role=role[1] if role else "")

    def pod(self, node: Object) -> Object | None:
        """The pod itself, if it is known."""
        return self._pods.get(node["id"])

    def pod_name(self, node: Object) -> str:
        """What Kubernetes calls a node's pod: Argo puts the template's name into the middle of the node's id."""
        pod = self.pod(node)
        if pod is not None:
            return str(pod["metadata"]["name"])
        number = str(node["id"]).rpartition("-")[2]
        return f"{self.name}-{node.get('templateName', '')}-{number}"

    def _told_task(self, node: Object) -> tuple[tuple[str, ...], dict[str, Any]] | None:
        """The task that a driver was asked to prepare, by its path; None for another pod."""
        path, text = _split(self.name, node), _parameter(node, "task")
        if not path[-1].endswith(_DRIVER) or not text:
            return None
        return (*path[:-1], path[-1].removesuffix(_DRIVER)), _json(text)

    def _number(self, name: str, path: tuple[str, ...]) -> int | None:
        """A parameter of a task, which may be one of the group that holds it."""
        for end in range(len(path), 0, -1):
            given = (self._tasks.get(path[:end]) or {}).get("inputs", {}).get("parameters", {}).get(name, {})
            constant = given.get("runtimeValue", {}).get("constant")
            if constant is not None:
                return int(constant)
            name = given.get("componentInputParameter", name)
        return None


def _explain(graph: _Graph, node: Object, failures: Sequence[Failure]) -> Reason:
    """Why a pod failed, by what Argo says of it and by what its step wrote down."""
    place, is_driver = graph.place(node)
    step = place["step"]
    message = _one_line(str(node.get("message") or ""))
    pod = graph.pod(node)
    # A pod that a time limit ended before it began tells there what it was waiting for.
    awaited = _awaited(pod) if pod else ""
    about: dict[str, Any] = {
        **place,
        "pod": graph.pod_name(node),
        "message": message,
        "started": _seconds(node.get("startedAt")),
    }
    asked = graph.asked(node)

    def reason(kind: ReasonKind, problem: str, fix: str) -> Reason:
        return Reason(kind=kind, problem=problem, fix=fix, **about)

    if "OOMKilled" in message:
        problem = f"out of memory at {asked.memory}" if asked.memory else "out of memory"
        return reason("memory", problem, f"raise {asked.field(step, 'memory')}")
    code = _exit_code(message)
    # Who ends a run also kills and deletes what is at work.
    ended = _is_terminated(graph.workflow) and (message in ("", "pod deleted") or code in _KILLED)
    if ended or _SHUTDOWN.search(message):
        return _terminated(**about)
    if match := _IMAGE.search(message) or _IMAGE.search(awaited):
        return reason("image", _awaited_words(match.string), _IMAGE_FIX)
    if "longer than the specified deadline" in message:
        limit = f" of {asked.seconds} s" if asked.seconds else ""
        if awaited:
            return reason("deadline", f"it did not begin within its time limit{limit}: {_awaited_words(awaited)}", "")
        return reason("deadline", f"it ran past its time limit{limit}", f"raise {asked.field(step, 'timeout_seconds')}")
    if message == "pod deleted":
        return reason("deleted", "its pod was deleted: by somebody, or together with its node", RESUME)
    if _EVICTED.search(message):
        return reason("evicted", f"its pod was put off its node: {message}", RESUME)
    if match := re.search(r'serviceaccount "([^"]+)" not found', message):
        fix = f"`hrf submit --service-account` with one that is there, or make {match[1]} (manifests/README.md)"
        return reason("account", f"there is no service account {match[1]!r} in the run's namespace", fix)
    if code and is_driver:
        problem = f"Kubeflow's own driver of it failed (exit code {code}), as when its API server or its store is away"
        return reason("driver", problem, f"{_log_command(graph, about['pod'])}; then {RESUME}")
    if code:
        told = _told(place, about["started"], failures)
        if told:
            what, _, fix = told.message.partition(". Fix: ")
            return reason("code", f"{told.error_type}: {what}", fix)
        killed = ", killed" if code in _KILLED else ""
        problem = (
            f"it ended with exit code {code}{killed} and said nothing: Kubeflow's launcher could not fetch its inputs"
            " or keep its outputs, as when the store is away, or its code never began"
        )
        return reason("silent", problem, f"{_log_command(graph, about['pod'])}; then {RESUME}")
    return reason("other", message or "it failed, and Argo does not say why", "")


RESUME = "`hrf runs resume` goes on from the last finished step"
_IMAGE_FIX = (
    "name images that the cluster can pull in HRF_IMAGE_CONTROL, HRF_IMAGE_WORKER and HRF_IMAGE_REWARD when you submit;"
    " a private registry needs `image_pull_secret` in the placement"
)


def _terminated(**about: Any) -> Reason:
    return Reason(kind="terminated", problem="terminated by a user", fix=RESUME, **about)


def _is_terminated(workflow: Object) -> bool:
    """Kubeflow ends a run on demand by giving its Workflow no time at all; Argo has strategies of its own."""
    spec = workflow.get("spec") or {}
    return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))


def _told(place: Mapping[str, Any], started: float, failures: Sequence[Failure]) -> Failure | None:
    """What a step wrote down of the failure at hand; what it wrote at an earlier attempt is about another one."""
    for failure in failures:
        component = _component(place["step"])
        told_by = (component, "promote") if component == "evaluate" else (component,)
        here = failure.epoch == place["epoch"] and (failure.replica or 0) == (place["replica"] or 0)
        if failure.step in told_by and here and failure.time >= started:
            return failure
    return None


def _awaited(pod: Object) -> str:
    """What the main container of a pod that never began was waiting for; "" if it began."""
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (status.get("state") or {}).get("waiting") or {}
        if status.get("name") == "main" and waiting.get("reason") and not status.get("containerID"):
            return _one_line(": ".join(filter(None, (waiting["reason"], waiting.get("message")))))
    return ""


def _awaited_words(text: str) -> str:
    """What a pod waits for, without the long way on which that was found out."""
    if _IMAGE.search(text):
        image = re.search(r'image "([^"]+)"', text)
        return f"its image {image[1]} can't be pulled ({text.rpartition(': ')[2]})" if image else text
    return text.partition(" preemption:")[0]


def _exit_code(message: str) -> str:
    """The exit code of a pod's main container, in Argo's words; "" where there is none."""
    match = re.match(r"main: \w+ \(exit code (\d+)\)", message)
    return match[1] if match else ""


def _log_command(graph: _Graph, pod: str) -> str:
    namespace = (graph.workflow.get("metadata") or {}).get("namespace", "")
    return f"see `kubectl logs -n {namespace} {pod} -c main`"


def _parameter(node: Object, name: str) -> str:
    found = (node.get("inputs") or {}).get("parameters") or []
    return next((str(each.get("value") or "") for each in found if each.get("name") == name), "")


def _json(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _split(workflow_name: str, node: Object) -> tuple[str, ...]:
    """The way to a node without attempts and without the Workflow's own name, which may have dots in it."""
    rest = str(node["name"]).removeprefix(workflow_name)
    parts = [_ATTEMPT.sub("", part) for part in rest.split(".")]
    return tuple(part for part in parts if part) or (workflow_name,)


def _name_of(workflow: Object) -> str:
    return str((workflow.get("metadata") or {}).get("name") or "a Workflow")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _seconds(time: object) -> float:
    return datetime.datetime.fromisoformat(str(time)).timestamp() if time else 0.0
