"""What Argo's Workflow object holds of a run of a package, node by node, before there is any run.

Kubeflow has Argo run a package. Argo keeps the state of everything in one object, the Workflow, as a map of nodes: two
or three for each task, and once more as many where each may be retried. Each carries all that it was given, so that a
step's pod (image, command, source, inputs with their metadata) stands there in up to six places, and every pipeline in
the driver of its own. The nodes that this makes are as long as real ones; their names and counts are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: An artifact that a step is given, as Kubeflow writes it: its name, address and metadata.
Artifact = dict[str, Any]
#: What Kubeflow passes between tasks by name: artifacts, one or, of a loop, several; and parameters' values.
Values = dict[str, Any]
#: Which templates Argo runs in a node that can be tried again, with a node for each attempt below it: `every` one with
#: the configuration that Kubeflow 2.17 brings, only the `steps` that have retries with that of 2.16.
Retried = Literal["every", "steps"]

_RUN_ID = "4bada8bf-2b56-425f-b50e-ea09b7dd48e7"
_ROOT = f"s3://hrf/_kubeflow/{{pipeline}}/{_RUN_ID}"
_TIME = "2026-11-28T22:20:16Z"
#: With each artifact Kubeflow hands on how its store is reached.
_STORE = {
    "Provider": "s3",
    "Params": {
        "accessKeyKey": "AWS_ACCESS_KEY_ID",
        "disableSSL": "true",
        "endpoint": "http://hrf-seaweedfs.kubeflow.svc:8333",
        "forcePathStyle": "true",
        "fromEnv": "false",
        "maxRetries": "5",
        "region": "us-east-1",
        "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
        "secretName": "hrf-s3",
    },
}
#: What the launcher is told beside the step's inputs.
_LAUNCHER = (
    *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local", "--ml_pipeline_server_port", "8887"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local", "--mlmd_server_port", "8080"),
    *("--publish_logs", "true", "--publish_logs", "true", "--"),
)
_LOGS = {"executor-logs": {"artifactType": {"schemaTitle": "system.Artifact"}}}


def hexadecimal(length: int, *about: object) -> str:
    """Digits that compress as badly as those of a real digest, and are always the same."""
    return hashlib.sha256(repr(about).encode()).hexdigest()[:length]


def lineage(name: str, parents: Sequence[str]) -> dict[str, Any]:
    """What a step writes down of an output: see `hrf_components.outputs.record`."""
    return {"sha256": hexadecimal(64, name, parents), "epoch": 0, "git_sha": hexadecimal(12, "git")}


@dataclass(kw_only=True)
class WorkflowModel:
    """The nodes of a run of a package that went well."""

    spec: Mapping[str, Any]
    """The pipeline."""
    platform: Mapping[str, Any] = field(default_factory=dict)
    """What the package says of Kubernetes, by executor."""
    retried: Retried = "every"
    metadata: Callable[[str, Sequence[str]], Mapping[str, Any]] = lineage
    """What steps write down of an output, from its name and those of the artifacts that it was made from."""
    nodes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, documents: Sequence[Mapping[str, Any]], **options: Any) -> WorkflowModel:
        """Run a package in thought.

        Args:
            documents: A package, parsed: the pipeline and, where there is one, its platform part.
            options: `retried`, `metadata`.
        """
        spec, *platforms = documents
        deployment = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platforms else {}
        model = cls(spec=_whole(spec), platform=_whole(deployment), **options)
        model._run()
        return model

    @property
    def name(self) -> str:
        """Of the Workflow."""
        return f"{self.spec['pipelineInfo']['name']}-6cgkz"

    def _run(self) -> None:
        root = self.spec["root"]
        parameters = root.get("inputDefinitions", {}).get("parameters", {})
        given = {name: entry.get("defaultValue", "") for name, entry in parameters.items()}
        entry = self._add("DAG", "entrypoint", self.name, children=1)
        runtime = {"parameterValues": given}
        self._add_dag_driver(f"{entry}.root-driver", root, task={}, kind="ROOT_DAG", runtime=runtime)
        within = self._add("DAG", "root", f"{entry}.root", inputs=_PARENT, children=1)
        self._add_dag("root", root["dag"], within, {"parameters": given, "artifacts": {}})

    def _add_dag(self, component: str, dag: Mapping[str, Any], within: str, given: Mapping[str, Values]) -> Values:
        """Run a pipeline's tasks; returns its output artifacts."""
        outputs: dict[str, Values] = {}
        tasks = dag["tasks"]
        for name in _in_order(tasks):
            task = tasks[name]
            followers = sum(name in other.get("dependentTasks", ()) for other in tasks.values())
            place = within
            if task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
                # The exit task is a hook of the one that it waits for.
                hook = f"{within}.{task['dependentTasks'][0]}.onExit"
                place = self._add("DAG", f"exit-hook-{component}-{name}", hook, inputs=_PARENT, children=1)
            outputs[name] = self._add_task(name, task, place, _resolve(task, given, outputs), followers)
        selected = dag.get("outputs", {}).get("artifacts", {})
        return {
            output: outputs[one["producerSubtask"]].get(one["outputArtifactKey"], [])
            for output, entry in selected.items()
            for one in entry["artifactSelectors"][:1]
        }

    def _add_task(
        self, name: str, task: Mapping[str, Any], within: str, given: Mapping[str, Values], followers: int
    ) -> Values:
        """Run one task; returns its output artifacts."""
        reference = task["componentRef"]["name"]
        component = self.spec["components"][reference]
        if "parameterIterator" in task:
            return self._add_loop(name, task, within, given)
        if "dag" not in component:
            return self._add_step(name, task, component, within, given, followers)
        self._add_dag_driver(f"{within}.{name}-driver", component, task=task)
        inside = self._add("DAG", reference, f"{within}.{name}", inputs=_PARENT, children=1 + followers)
        return self._add_dag(reference, component["dag"], inside, given)

    def _add_loop(self, name: str, task: Mapping[str, Any], within: str, given: Mapping[str, Values]) -> Values:
        """Run a loop over constants: a pipeline of its iterations, each in one of its own."""
        reference, iterator = task["componentRef"]["name"], task["parameterIterator"]
        component = self.spec["components"][reference]
        loop = self._add("DAG", f"{reference}-for-loop", f"{within}.{name}", inputs=_PARENT, children=1)
        self._add_dag_driver(f"{loop}.iteration-driver", component, task=task)
        items = json.loads(iterator["items"]["raw"])
        group = f"{loop}.iteration-iterations"
        self._add("TaskGroup", f"{reference}-iteration", group, children=len(items))
        collected: Values = {}
        for index, item in enumerate(items):
            turn = self._add("DAG", f"{reference}-iteration", f"{group}({index}:{index})", inputs=_PARENT, children=1)
            self._add_dag_driver(f"{turn}.iteration-item-driver", component, task=task)
            inside = self._add("DAG", reference, f"{turn}.iteration-item", inputs=_PARENT, children=1)
            parameters = {**given["parameters"], iterator["itemInput"]: item}
            made = self._add_dag(reference, component["dag"], inside, {**given, "parameters": parameters})
            for output, artifacts in made.items():
                collected.setdefault(output, []).extend(artifacts)
        return collected

    def _add_step(
        self,
        name: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        within: str,
        given: Mapping[str, Values],
        followers: int,
    ) -> Values:
        """Run one step: the driver's pod, and the executor with the step's own."""
        label = component["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][label]["container"]
        settings = self.platform.get(label, {})
        patch = _text(self._pod(name, component, container, settings, given))
        told = {"component": _text(component), "task": _text(task), "container": _text(container)}
        inputs = [
            *_parameters({**told, "task-name": name, "parent-dag-id": "21"}),
            {"name": "iteration-index", "default": "-1", "value": "-1"},
            {"name": "kubernetes-config", "default": "", "value": _text(settings)},
        ]
        decided = {"pod-spec-patch": patch, "cached-decision": "false", "condition": "nil"}
        template = "system-container-driver"
        self._add("Pod", template, f"{within}.{name}-driver", inputs=inputs, outputs=_from_files(decided), children=1)
        policy = task.get("retryPolicy")
        prefix = "retry-" if policy else ""
        retries = _retries(policy) if policy else []
        cached = {"name": "cached-decision", "default": "false", "value": "false"}
        patched = _parameters({"pod-spec-patch": patch})
        inputs = [*patched, cached, *({**entry, "default": "0"} for entry in retries)]
        template = f"{prefix}system-container-executor"
        executor = self._add("DAG", template, f"{within}.{name}", inputs=inputs, children=1 + followers)
        template = f"{prefix}system-container-impl"
        self._add("Pod", template, f"{executor}.executor", inputs=[*patched, *retries], outputs=[])
        return self._made(name, component, given)

    def _made(self, name: str, component: Mapping[str, Any], given: Mapping[str, Values]) -> Values:
        """The output artifacts of a step, as the steps after it are given them."""
        parents = [artifact["name"] for artifacts in given["artifacts"].values() for artifact in artifacts]
        made = {}
        for output in component.get("outputDefinitions", {}).get("artifacts", {}):
            uri = f"{self._folder(name)}/{output}"
            about = {**self.metadata(output, parents), "display_name": output, "store_session_info": _text(_STORE)}
            made[output] = [{"name": "123", "uri": uri, "metadata": about}]
        return made

    def _pod(
        self,
        name: str,
        component: Mapping[str, Any],
        container: Mapping[str, Any],
        settings: Mapping[str, Any],
        given: Mapping[str, Values],
    ) -> dict[str, Any]:
        """What the driver decides that the step's pod be, over what all steps have."""
        outputs = component.get("outputDefinitions", {})
        logged = {**outputs, "artifacts": {**_LOGS, **outputs.get("artifacts", {})}}
        folder = self._folder(name)
        written = {
            output: {"artifacts": [{"name": output, "type": entry["artifactType"], "uri": f"{folder}/{output}"}]}
            for output, entry in logged["artifacts"].items()
        }
        executor_input = {
            "inputs": {
                "artifacts": {key: {"artifacts": artifacts} for key, artifacts in given["artifacts"].items()},
                "parameterValues": given["parameters"],
            },
            "outputs": {
                "artifacts": written,
                "parameters": {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", ())},
                "outputFile": f"/{folder.replace('://', '/')}/output_metadata.json",
            },
        }
        command = [
            *("/kfp-launcher/launch", "--pipeline_name", self.spec["pipelineInfo"]["name"], "--run_id", _RUN_ID),
            *("--execution_id", "24", "--executor_input", _text(executor_input)),
            *("--component_spec", _text({**component, "outputDefinitions": logged}), *_LAUNCHER),
        ]
        main = {
            "name": "main",
            "image": container["image"],
            "command": command,
            "args": [*container["command"], *container["args"]],
            "env": [
                {"name": "no_proxy", "value": "*"},
                {"name": "NO_PROXY", "value": "*"},
                *container.get("env", []),
                *_environment(settings),
            ],
            "resources": _resources(container.get("resources", {})),
        }
        # The rest is about as long in the words of a pod.
        other = {key: value for key, value in settings.items() if key not in ("secretAsEnv", "configMapAsEnv")}
        return {"containers": [main], **other}

    def _add_dag_driver(
        self,
        name: str,
        component: Mapping[str, Any],
        *,
        task: Mapping[str, Any],
        kind: str = "DAG",
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        """The pod that decides what a pipeline is given."""
        told = {
            "runtime-config": _text(runtime) if runtime else "",
            "task": _text(task) if task else "",
            "task-name": name.rpartition(".")[2].removesuffix("-driver"),
            "parent-dag-id": "21",
            "iteration-index": "-1",
            "driver-type": kind,
        }
        inputs = [
            {"name": "component", "value": _text(component)},
            *({**entry, "default": ""} for entry in _parameters(told)),
        ]
        decided = {"execution-id": "21", "iteration-count": "0", "condition": "nil"}
        self._add("Pod", "system-dag-driver", name, inputs=inputs, outputs=_from_files(decided), children=1)

    def _add(
        self,
        kind: str,
        template: str,
        name: str,
        *,
        inputs: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[Mapping[str, Any]] | None = None,
        children: int = 0,
    ) -> str:
        """Add a node, below one for its retries if there are some; returns the name that its own nodes begin with."""
        retried = kind != "TaskGroup" and (self.retried == "every" or template == "retry-system-container-impl")
        node: dict[str, Any] = {
            "id": self._id(name),
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "templateScope": f"local/{self.name}",
            "phase": "Succeeded",
            "boundaryID": self._id(name.rpartition(".")[0]),
            "startedAt": _TIME,
            "finishedAt": _TIME,
            "progress": "12/12",
            "resourcesDuration": {"cpu": 12, "memory": 345},
        }
        if inputs:
            node["inputs"] = {"parameters": list(inputs)}
        if outputs is not None:
            log = f"private-artifacts/kubeflow/{self.name}/2026/11/28/{self.name}-{template}-1387580584/main.log"
            node["outputs"] = {
                **({"parameters": list(outputs)} if outputs else {}),
                "artifacts": [{"name": "main-logs", "s3": {"key": log}}],
                "exitCode": "0",
            }
        if retried:
            attempt = f"{name}(0)"
            self.nodes.append({**node, "type": "Retry", "children": [self._id(attempt)]})
            renamed = {"id": self._id(attempt), "name": attempt, "displayName": f"{node['displayName']}(0)"}
            node = {**node, **renamed, "nodeFlag": {"retried": True}}
        if children:
            node["children"] = [self._id(f"{name} {number}") for number in range(children)]
        if kind == "Pod":
            node |= {"hostNodeName": "node1", "taskResultSynced": True}
        else:
            node["outboundNodes"] = [self._id(f"{name} end")]
        self.nodes.append(node)
        return str(node["name"])

    def _id(self, name: str) -> str:
        return f"{self.name}-{int(hexadecimal(8, name), 16):010d}" if name != self.name else name

    def _folder(self, step: str) -> str:
        """Where a step's outputs go."""
        digits = hexadecimal(32, step, len(self.nodes))
        uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        return f"{_ROOT.format(pipeline=self.spec['pipelineInfo']['name'])}/{step}/{uuid}"


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


#: All that the node of a pipeline is given.
_PARENT = _parameters({"parent-dag-id": "21"})


def _from_files(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Output parameters of a driver, which writes them into files."""
    files = {name: {"path": f"/tmp/outputs/{name}", "default": "true"} for name in values}
    return [{"name": name, "value": value, "valueFrom": files[name]} for name, value in values.items()]


def _retries(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = {
        "retry-max-count": str(policy["maxRetryCount"]),
        "retry-backoff-duration": policy["backoffDuration"].removesuffix("s"),
        "retry-backoff-factor": str(policy["backoffFactor"]),
        "retry-backoff-max-duration": policy["backoffMaxDuration"].removesuffix("s"),
    }
    return _parameters(values)


def _environment(settings: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The variables that a step has from secrets and ConfigMaps."""
    for kind, reference, source, key in (
        ("secretAsEnv", "secretKeyRef", "secretName", "secretKey"),
        ("configMapAsEnv", "configMapKeyRef", "configMapName", "configMapKey"),
    ):
        for entry in settings.get(kind, ()):
            for mapped in entry["keyToEnv"]:
                given = {"name": entry[source], "key": mapped[key], "optional": entry.get("optional", False)}
                yield {"name": mapped["envVar"], "valueFrom": {reference: given}}


def _resources(asked: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    quantities = {}
    for kind in ("Limit", "Request"):
        named = {name: asked.get(f"resource{name.capitalize()}{kind}") for name in ("cpu", "memory")}
        quantities[f"{kind.lower()}s"] = {name: value for name, value in named.items() if value}
    if accelerator := asked.get("accelerator"):
        quantities["limits"][accelerator["resourceType"]] = accelerator["resourceCount"]
    return quantities


def _resolve(task: Mapping[str, Any], given: Mapping[str, Values], outputs: Mapping[str, Values]) -> dict[str, Values]:
    """What a task is given: from its pipeline's inputs, or from tasks before it."""
    inputs = task.get("inputs", {})
    artifacts: Values = {}
    for name, source in inputs.get("artifacts", {}).items():
        if made := source.get("taskOutputArtifact"):
            found = outputs[made["producerTask"]].get(made["outputArtifactKey"], [])
            artifacts[name] = [{**artifact, "type": {"instanceSchema": ""}} for artifact in found]
        else:
            found = given["artifacts"].get(source["componentInputArtifact"], [])
            artifacts[name] = [{key: artifact[key] for key in ("name", "uri", "metadata")} for artifact in found]
    parameters = {name: _value(entry, given) for name, entry in inputs.get("parameters", {}).items()}
    return {"artifacts": artifacts, "parameters": parameters}


def _value(entry: Mapping[str, Any], given: Mapping[str, Values]) -> Any:
    if "runtimeValue" in entry:
        constant = entry["runtimeValue"]["constant"]
        return _RUN_ID if constant == "{{$.pipeline_job_uuid}}" else constant
    if "componentInputParameter" in entry:
        return given["parameters"].get(entry["componentInputParameter"], "")
    if "taskFinalStatus" in entry:
        told = {"pipelineJobResourceName": "hrf-finetune-6cgkz", "pipelineTaskName": "exit-handler-1"}
        return {"error": {}, "state": "COMPLETE", **told}
    # Of another task, such as the base model's source.
    return "shipped:avatars-32"


def _in_order(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of a pipeline's tasks, each after those that it depends on."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        for earlier in tasks[name].get("dependentTasks", ()):
            visit(earlier)
        ordered.setdefault(name)

    for name in tasks:
        visit(name)
    return list(ordered)


def _text(value: Any) -> str:
    """JSON as Go writes it, where it stands as text within other JSON."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _whole(value: Any) -> Any:
    """The same with whole numbers where the package, whose numbers are all floats, has them."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
