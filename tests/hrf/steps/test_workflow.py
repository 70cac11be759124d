"""Why steps failed: what real Workflows say, and the rules by which they are read."""

from __future__ import annotations

import base64
import copy
import gzip
import json

import pytest

from hrf.errors import ArtifactError
from hrf.steps.workflow import find_reasons, find_waiting, read_nodes
from tests.hrf.run_ends import failure_of
from tests.kfp_api.recordings import recorded, recording

RAISE = "raise `steps.sample.{}` in the placement"
LINES = {
    "workflow-deadline": ["sample, epoch 0: it ran past its time limit. Fix: " + RAISE.format("timeout_seconds")],
    "workflow-oom": ["sample, epoch 0: out of memory. Fix: " + RAISE.format("memory")],
    "workflow-no-service-account": [
        "the run: there is no service account 'absent-sa' in the run's namespace. Fix: `hrf submit --service-account`"
        " with one that is there, or make absent-sa (manifests/README.md)"
    ],
    "workflow-retried-with-2.16-defaults": [
        "update, epoch 0: it ended with exit code 1 and said nothing: Kubeflow's launcher could not fetch its inputs or"
        " keep its outputs, as when the store is away, or its code never began. Fix: see `kubectl logs -n kubeflow"
        " hrf-finetune-mhgb5-retry-system-container-impl-2675293477 -c main`; then `hrf runs resume` goes on from the"
        " last finished step"
    ],
    "workflow-image-absent": [],
    "workflow-success-compressed": [],
}


@pytest.mark.parametrize("name", recorded("workflow"))
def test_the_reason_is_found_in_every_recorded_workflow(name):
    assert [reason.line for reason in find_reasons(recording(name))] == LINES[name]


@pytest.mark.parametrize("step", ["evaluate", "promote"])
def test_a_task_of_two_steps_fails_in_the_words_of_the_one_that_failed(step):
    """The recorded failure of `update`, as one of the second task that evaluates and promotes."""
    text = json.dumps(recording("workflow-retried-with-2.16-defaults"))
    workflow = json.loads(text.replace("epoch.update", "evaluate-2"))
    told = failure_of(step, None, "StorageError", "the bucket is away. Fix: wait", time=2e9)
    (reason,) = find_reasons(workflow, failures=[told])
    assert reason.where == "evaluate"
    assert (reason.problem, reason.fix) == (f"{told.error_type}: the bucket is away", "wait")


def test_what_a_pod_waits_for_is_found():
    (waiting,) = find_waiting(recording("workflow-image-absent"))
    assert waiting.where == "check"
    assert waiting.why == "its image docker.io/library/hrf-control:absent can't be pulled (i/o timeout)"
    assert waiting.pod == "hrf-finetune-p5fs8-system-container-impl-2717614460"
    assert not any(find_waiting(recording(name)) for name in recorded("workflow") if name != "workflow-image-absent")


def test_pods_are_called_as_kubernetes_calls_them():
    """The recording has a pod's name beside its node's: in what Kubernetes said when it refused the pod."""
    workflow = recording("workflow-no-service-account")
    named = {node["id"]: node["message"].split('"')[1] for node in _pods(workflow)}
    assert len(named) == 9
    (reason,) = find_reasons(workflow)
    assert reason.pod in named.values()
    assert named[f"hrf-finetune-t4rp7-{reason.pod.rpartition('-')[2]}"] == reason.pod


def test_compressed_nodes_are_the_same_nodes():
    plain = recording("workflow-oom")
    packed = copy.deepcopy(plain)
    nodes = packed["status"].pop("nodes")
    packed["status"]["compressedNodes"] = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
    assert find_reasons(packed) == find_reasons(plain) != []


@pytest.mark.parametrize(
    "status", [{"compressedNodes": "AAAA"}, {"compressedNodes": "x"}, {"offloadNodeStatusVersion": "fnv:1"}]
)
def test_nodes_that_can_not_be_had_are_an_error(status):
    with pytest.raises(ArtifactError, match="run-1"):
        read_nodes({"metadata": {"name": "run-1"}, "status": status})


def _whole(**changes):
    """The recorded whole Workflow, in which `sample` of its second epoch has failed."""
    workflow = recording("workflow-success-compressed")
    nodes = read_nodes(workflow)
    (node,) = (each for each in nodes.values() if each["name"].endswith("epoch-2(0).sample(0).executor(0)"))
    node.update({"phase": "Failed", **changes})
    workflow["status"] = {"nodes": nodes, "phase": "Failed"}
    return workflow, node


def test_a_whole_workflow_tells_epoch_limit_and_the_part_of_the_placement():
    workflow, _ = _whole(message="main: OOMKilled (exit code 1)")
    (reason,) = find_reasons(workflow)
    assert reason.line == (
        "sample, epoch 1: out of memory at 4Gi. Fix: raise `worker.memory` in the placement, or `steps.sample.memory`"
        " there"
    )


def test_the_pod_itself_knows_its_limit_best():
    workflow, node = _whole(message="main: OOMKilled (exit code 1)")
    container = {"name": "main", "image": "mine/hrf-reward@sha256:00", "resources": {"limits": {"memory": "300Mi"}}}
    pod = {
        "metadata": {"name": "the-pod", "annotations": {"workflows.argoproj.io/node-id": node["id"]}},
        "spec": {"containers": [{"name": "wait"}, container]},
    }
    (reason,) = find_reasons(workflow, [pod])
    assert "out of memory at 300Mi. Fix: raise `reward.memory`" in reason.line
    assert reason.pod == "the-pod"


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        # As Argo's controller and the kubelet word them: workflow/controller/operator.go, kubelet's eviction manager.
        ("pod deleted", "deleted", "its pod was deleted"),
        ("The node was low on resource: memory. Threshold quantity: 100Mi", "evicted", "low on resource: memory"),
        ("Pod was terminated in response to imminent node shutdown.", "evicted", "node shutdown"),
        ("Preempted in order to admit critical pod", "evicted", "put off its node"),
        ('ImagePullBackOff: Back-off pulling image "x/y:1"', "image", "its image x/y:1 can't be pulled"),
        ("main: Error (exit code 137)", "silent", "exit code 137, killed"),
        ("workflow shutdown with strategy:  Terminate", "terminated", "terminated by a user"),
        ("Step exceeded its deadline", "terminated", "terminated by a user"),
        ("wait: Error (exit code 1)", "other", "wait: Error (exit code 1)"),
        ("", "other", "Argo does not say why"),
    ],
)
def test_each_way_to_fail_is_told(message, kind, said):
    (reason,) = find_reasons(_whole(message=message)[0])
    assert reason.kind == kind
    assert said in reason.line
    assert reason.where == "sample, epoch 1"


def test_a_pod_that_a_deadline_ended_before_it_began_tells_what_it_waited_for():
    workflow, node = _whole(message="Pod was active on the node longer than the specified deadline")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x/y:1"'}
    pod = {
        "metadata": {"name": "the-pod", "annotations": {"workflows.argoproj.io/node-id": node["id"]}},
        "spec": {"containers": [{"name": "main"}], "activeDeadlineSeconds": 600},
        "status": {"containerStatuses": [{"name": "main", "state": {"waiting": waiting}, "containerID": ""}]},
    }
    assert find_reasons(workflow)[0].problem == "it ran past its time limit of 14400 s"
    assert find_reasons(workflow, [pod])[0].kind == "image"
    waiting.update(reason="CreateContainerConfigError", message='configmap "x" not found')
    (reason,) = find_reasons(workflow, [pod])
    assert reason.problem == (
        'it did not begin within its time limit of 600 s: CreateContainerConfigError: configmap "x" not found'
    )


def test_a_driver_that_failed_is_told_apart_from_its_step():
    workflow = recording("workflow-success-compressed")
    nodes = read_nodes(workflow)
    (node,) = (each for each in nodes.values() if each["name"].endswith("epoch-2(0).evaluate-driver(0)"))
    node.update(phase="Failed", message="main: Error (exit code 1)")
    workflow["status"] = {"nodes": nodes}
    (reason,) = find_reasons(workflow)
    assert reason.kind == "driver"
    assert reason.line.startswith("evaluate, epoch 1: Kubeflow's own driver of it failed (exit code 1)")


@pytest.mark.parametrize(("step", "epoch"), [("sample", 1), ("evaluate", 3)])
def test_the_epoch_of_a_step_is_its_own_parameter(step, epoch):
    """A group of several epochs is evaluated at its last one, and the step's own records say that."""
    workflow = recording("workflow-success-compressed")
    nodes = read_nodes(workflow)
    (driver,) = (each for each in nodes.values() if each["name"].endswith(".epoch-2-driver(0)"))
    (task,) = (each for each in driver["inputs"]["parameters"] if each["name"] == "task")
    told = json.loads(task["value"])
    told["inputs"]["parameters"]["last_epoch"] = {"runtimeValue": {"constant": 3}}
    task["value"] = json.dumps(told)
    (node,) = (each for each in nodes.values() if each["name"].endswith(f"epoch-2(0).{step}(0).executor(0)"))
    node.update(phase="Failed", message="main: OOMKilled (exit code 1)")
    workflow["status"] = {"nodes": nodes}
    assert [(reason.step, reason.epoch) for reason in find_reasons(workflow)] == [(step, epoch)]


def test_a_run_that_was_ended_on_demand_says_so():
    """Kubeflow gives its Workflow no time at all: TerminateWorkflow in its API server."""
    workflow = recording("workflow-image-absent")
    workflow["spec"] = {"activeDeadlineSeconds": 0}
    (reason,) = find_reasons(workflow)
    assert reason.line == "the run: terminated by a user. Fix: `hrf runs resume` goes on from the last finished step"
    for node in _pods(workflow):
        if node["phase"] == "Pending":
            node.update(phase="Failed", message="Step exceeded its deadline")
    assert [(reason.where, reason.kind) for reason in find_reasons(workflow)] == [("check", "terminated")]


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        ("main: Error (exit code 143)", ["terminated"]),
        ("pod deleted", ["terminated"]),
        # It had failed before, and somebody lost patience.
        ("main: OOMKilled (exit code 1)", ["memory", "terminated"]),
        ("main: Error (exit code 1)", ["silent", "terminated"]),
    ],
)
def test_what_failed_before_somebody_ended_the_run_is_told_too(message, kinds):
    workflow, _ = _whole(message=message)
    workflow["spec"] = {"activeDeadlineSeconds": 0}
    assert [reason.kind for reason in find_reasons(workflow)] == kinds


def test_what_a_step_said_of_this_attempt_is_its_reason():
    workflow = recording("workflow-retried-with-2.16-defaults")
    began = find_reasons(workflow)[0].started
    failure = failure_of("update", 0, "NumericalError", "nan. Fix: x", time=began + 9)
    told = find_reasons(workflow, failures=[failure])
    assert [reason.line for reason in told] == ["update, epoch 0: NumericalError: nan. Fix: x"]
    assert told[0].kind == "code"
    for other in ({"epoch": 1}, {"step": "train"}, {"time": began - 9}):
        assert find_reasons(workflow, failures=[failure.model_copy(update=other)])[0].kind == "silent"


def test_a_step_that_succeeded_when_tried_again_is_no_reason():
    workflow = recording("workflow-retried-with-2.16-defaults")
    failed = [node["name"] for node in _pods(workflow) if node["phase"] == "Failed"]
    assert sum("baseline" in name for name in failed) == 1
    assert sum("update" in name for name in failed) == 3
    assert [reason.step for reason in find_reasons(workflow)] == ["update"]


def test_the_exit_step_is_a_reason_only_where_nothing_else_is():
    workflow, node = _whole(message="main: OOMKilled (exit code 1)")
    nodes = workflow["status"]["nodes"].values()
    (last,) = (each for each in nodes if each["name"].endswith("onExit(0).report-status(0).executor(0)"))
    last.update(phase="Failed", message="main: Error (exit code 1)")
    assert [reason.step for reason in find_reasons(workflow)] == ["sample"]
    node["phase"] = "Succeeded"
    assert [reason.step for reason in find_reasons(workflow)] == ["report status"]


def test_two_shards_that_fail_are_two_reasons():
    workflow, node = _whole(message="main: OOMKilled (exit code 1)")
    nodes = workflow["status"]["nodes"]
    for shard in "01":
        name = node["name"].replace("sample(0)", f"shards(0).iteration-iterations({shard}:{shard})(0).sample(0)")
        nodes[f"x-{shard}"] = {**node, "id": f"x-{shard}", "name": name}
    del nodes[node["id"]]
    assert [reason.step for reason in find_reasons(workflow)] == ["sample", "sample"]


def test_a_name_with_dots_is_one_name():
    workflow = json.loads(json.dumps(recording("workflow-oom")).replace("hrf-finetune-sxs79", "nightly.v1.2-x"))
    (reason,) = find_reasons(workflow)
    assert (reason.where, reason.kind) == ("sample, epoch 0", "memory")


def _pods(workflow):
    return [node for node in workflow["status"]["nodes"].values() if node["type"] == "Pod"]
