"""One pod as a step's would be, which says what it finds: `hrf doctor --cluster --run`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from hrf.errors import ClusterError
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.kubernetes import Kubernetes, in_namespace
from hrf_pipelines.doctor.checks import Finding
from hrf_pipelines.local.object_storage import BUCKET
from hrf_pipelines.placement import S3_ADDRESS, S3_KEYS, USER, Images, Placement

#: A pod that has not ended by then never will: images of some gigabytes are pulled in less.
MOST_SECONDS = 900
POLL_SECONDS = 2.0
COMMAND = ("hrf", "doctor", "--pod", "--json")
_ENDED = ("Succeeded", "Failed")


def run_doctor_pod(
    cluster: Cluster,
    placement: Placement,
    images: Images,
    *,
    service_account: str,
    storage: str,
    tell: Callable[[str], None],
) -> list[Finding]:
    """Start the pod, wait for it, read what it found, and delete it.

    Raises:
        ClusterError: It can't be started, does not end, or says nothing.
    """
    kubernetes = Kubernetes.connect()
    namespace, name = cluster.run_namespace, f"hrf-doctor-{uuid.uuid4().hex[:8]}"
    pod = make_pod(name, placement, images, service_account=service_account, storage=storage)
    kubernetes.create(in_namespace(namespace, "pods"), pod)
    path = in_namespace(namespace, "pods", name)
    try:
        phase = _wait(kubernetes, path, tell)
        said = kubernetes.log(namespace, name)
    finally:
        kubernetes.delete(path)
    try:
        return [Finding(**finding) for finding in json.loads(said)]
    except (ValueError, TypeError):
        told = said.strip()[-500:] or "nothing"
        raise ClusterError(
            f"pod {name}",
            problem=f"it ended as {phase} and said: {told}",
            fix="use images of this version: `make images`, HRF_IMAGE_WORKER",
        ) from None


def make_pod(name: str, placement: Placement, images: Images, *, service_account: str, storage: str) -> dict[str, Any]:
    """The pod: image, environment, resources, nodes and rights as a step that runs the model gets them."""
    wanted = placement.worker
    sources = [
        ("secretKeyRef", placement.storage_secret, S3_KEYS),
        ("configMapKeyRef", placement.storage_config, S3_ADDRESS),
    ]
    environment: list[dict[str, Any]] = [{"name": BUCKET, "value": storage}]
    environment += [
        {"name": key, "valueFrom": {kind: {"name": source, "key": key, "optional": True}}}
        for kind, source, keys in sources
        if source
        for key in keys
    ]
    given = {"cpu": wanted.cpu, "memory": wanted.memory, wanted.accelerator: str(wanted.accelerators or "")}
    limits = {resource: amount for resource, amount in given.items() if resource and amount}
    container: dict[str, Any] = {
        "name": "main",
        "image": images.worker,
        "imagePullPolicy": "IfNotPresent",
        "command": list(COMMAND),
        "env": environment,
        "resources": {"limits": limits, "requests": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": MOST_SECONDS,
        "containers": [container],
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(wanted.node_selector),
        "tolerations": [
            {field: value for field, value in each.model_dump().items() if value} for each in wanted.tolerations
        ],
    }
    if service_account:
        spec["serviceAccountName"] = service_account
    if placement.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": placement.image_pull_secret}]
    if wanted.shared_memory:
        container["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        empty = {"medium": "Memory", "sizeLimit": wanted.shared_memory}
        spec["volumes"] = [{"name": "shared-memory", "emptyDir": empty}]
    # The label that Kubeflow gives to all pods of runs: network policies go by it.
    labels = {"app.kubernetes.io/part-of": "hrf-pipelines", "pipelines.kubeflow.org/v2_component": "true"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _wait(kubernetes: Kubernetes, path: str, tell: Callable[[str], None]) -> str:
    """Wait for a pod's end; returns its phase."""
    end, told = time.monotonic() + MOST_SECONDS, ""
    while True:
        pod = kubernetes.get(path)
        phase = str(pod["status"].get("phase", "Pending"))
        if phase in _ENDED:
            return phase
        why = waiting_for(pod)
        if why and why != told:
            tell(f"the pod waits: {why}")
            told = why
        if time.monotonic() > end:
            raise ClusterError(
                path, problem=f"the pod is {phase.lower()} and does not end: {why}", fix="put that right"
            )
        time.sleep(POLL_SECONDS)


def waiting_for(pod: dict[str, Any]) -> str:
    """What a pod that has not begun waits for, in Kubernetes' words; "" where it does not say."""
    status = pod.get("status") or {}
    for entry in status.get("containerStatuses") or []:
        waiting = (entry.get("state") or {}).get("waiting") or {}
        if waiting.get("message"):
            return " ".join(f"{waiting.get('reason')}: {waiting['message']}".split())
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            return " ".join(str(condition.get("message")).split())
    return ""
