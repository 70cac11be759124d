"""Why a run ended as it did, and what its pods wait for: from its own record, else from its Workflow, else a command.

The exit step reads the Workflow while it is there and stores what it finds. Where that did not come about, the user's
kubeconfig may open the Workflow, for an hour after the run's end. And where nothing does, whoever may look is told how.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hrf.errors import HrfError
from hrf.promotion.records import Failure, Reason, place_words
from hrf.steps.workflow import RESUME, Waiting, find_reasons, find_waiting
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.cluster.kubernetes import Kubernetes
from hrf_pipelines.cluster.records import Records, end_of
from hrf_pipelines.cluster.runs import Task, error_text, stands_still, state_of

#: A pod that waits for so long waits for something.
LONG_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One thing that a run failed from."""

    line: str
    """What and where, with the fix."""
    pod: str = ""
    """Whose log may tell more; "" if that isn't known."""
    may_pass: bool = True
    """Whether another attempt may get past it: what a run's own settings or a user ended would end it again."""


def find_causes(cluster: Cluster, run: Any, tasks: Sequence[Task], records: Records) -> list[Cause]:
    """Why a run did not succeed, the first thing first; never empty."""
    status = end_of(run, records)
    if status and status.reasons:
        return [_cause(reason) for reason in status.reasons]
    failures = (status and status.failures) or records.failures
    try:
        kubernetes = Kubernetes.connect()
        workflow = kubernetes.workflow_of(cluster.run_namespace, run.run_id)
        if workflow:
            pods = kubernetes.pods_of(cluster.run_namespace, run.run_id)
            if reasons := find_reasons(workflow, pods, failures):
                return [_cause(reason) for reason in reasons]
    except HrfError:
        # Many who may ask Kubeflow may not look behind it.
        pass
    if failures:
        return [Cause(line=failure_line(failure), may_pass=_may_pass(failure.error_type)) for failure in failures]
    told = error_text(run.error) or (status and status.error.message)
    # A Workflow of more than 1 MiB is packed, and shows no messages.
    command = (pods_command if stands_still(run) else look_command)(cluster, run.run_id)
    look = f"Kubeflow does not say why. Fix: {command} shows it, within an hour of the end"
    failed = next((task for task in tasks if task.state == "FAILED"), None)
    causes = []
    if failed is not None:
        where = ", ".join(reversed(failed.name.split(": ")))
        causes.append(Cause(line=f"{where}: {failed.error or told or f'failed, and {look}'}"))
    if state_of(run) == "TERMINATED" or (status and status.outcome == "terminated"):
        causes.append(Cause(line=f"the run: terminated by a user. Fix: {RESUME}", may_pass=False))
    if not causes:
        what = "in a step of which Kubeflow tells nothing" if tasks else "before its first step"
        causes.append(Cause(line=f"the run: {told or f'failed {what}, and {look}'}"))
    return causes


def _cause(reason: Reason) -> Cause:
    own = reason.kind in ("memory", "deadline", "image", "account", "terminated")
    told = reason.problem.partition(":")[0] if reason.kind == "code" else ""
    return Cause(line=reason.line, pod=reason.pod, may_pass=not own and _may_pass(told))


def _may_pass(error_type: str) -> bool:
    """Whether a step's own error may be about the moment: storage that was away, or nothing that it said."""
    return error_type in ("", "StorageError")


def find_long_waits(cluster: Cluster, run_id: str) -> list[Waiting]:
    """The pods of a run that have been waiting for more than a minute, and for what, by the user's kubeconfig.

    Raises:
        HrfError: It can't be seen from here.
    """
    workflow = Kubernetes.connect().workflow_of(cluster.run_namespace, run_id)
    now = time.time()
    return [entry for entry in find_waiting(workflow or {"metadata": {}}) if now - entry.since > LONG_SECONDS]


def failure_line(failure: Failure) -> str:
    """What a step wrote down of its failure, such as `prepare: ConfigError: ...`."""
    return f"{place_words(failure.step, failure.epoch, failure.replica)}: {failure.error_type}: {failure.message}"


def look_command(cluster: Cluster, run_id: str) -> str:
    """The command that shows what Argo says of a run's pods."""
    return f"`kubectl get workflow -n {cluster.run_namespace} -l pipeline/runid={run_id} -o yaml | grep message`"


def pods_command(cluster: Cluster, run_id: str) -> str:
    """The command that shows how a run's pods stand."""
    return f"`kubectl get pods -n {cluster.run_namespace} -l pipeline/runid={run_id}`"
