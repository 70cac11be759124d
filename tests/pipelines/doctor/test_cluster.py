"""What is looked at before a run, and `hrf doctor --cluster`."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from hrf.errors import ClusterError
from hrf_pipelines.cluster.connection import Cluster
from hrf_pipelines.doctor import cluster_pod as doctor_pod
from hrf_pipelines.doctor.cluster import check_cluster, refuse_unprepared
from hrf_pipelines.doctor.cluster_pod import make_pod, waiting_for
from hrf_pipelines.placement import Images, read_placement
from tests.kubernetes_api.server import Account
from tests.manifests.kustomize import build
from tests.manifests.schemas import check
from tests.pipelines.conftest import SMOKE, words

STORAGE = ("--storage", "s3://hrf")
KEYS = {"AWS_ACCESS_KEY_ID": "store-key", "AWS_SECRET_ACCESS_KEY": "store-secret"}
#: As KFP 2.17's own manifests set it, seen on the server of the recordings.
ARGO = {"retryStrategy": {"limit": "2", "retryPolicy": "OnError"}}


@pytest.fixture
def prepared(kubernetes):
    """A single-user Kubeflow on which README's commands were given."""
    kubernetes.add({"kind": "Namespace", "metadata": {"name": "kubeflow"}})
    kubernetes.add({"kind": "Service", "metadata": {"name": "ml-pipeline", "namespace": "kubeflow"}})
    for document in build("overlays/single-user"):
        kubernetes.add(json.loads(json.dumps(document)))
    data = {name: base64.b64encode(value.encode()).decode() for name, value in KEYS.items()}
    kubernetes.add({"kind": "Secret", "metadata": {"name": "hrf-s3", "namespace": "kubeflow"}, "data": data})
    about = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
    kubernetes.add({"kind": "ConfigMap", "metadata": about, "data": {}})
    return kubernetes


def _findings(**changes):
    arguments = {"service_account": "hrf-runner", "storage": "s3://hrf"}
    return check_cluster(Cluster.connect(), read_placement("cpu-small"), **{**arguments, **changes})


def _wrong(**changes):
    return {finding.name: finding.detail for finding in _findings(**changes) if finding.level != "ok"}


def test_after_the_readmes_commands_nothing_is_wrong(kfp, prepared):
    assert _wrong() == {}
    assert [finding.name for finding in _findings()] == [
        "namespace",
        "service account",
        "launcher",
        "storage",
        "secret",
        "retries",
    ]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("", "namespaces", "kubeflow"), "there is no namespace 'kubeflow'"),
        (("kubeflow", "serviceaccounts", "hrf-runner"), "there is no service account 'hrf-runner' in the namespace"),
        (("kubeflow", "configmaps", "kfp-launcher"), "there is no ConfigMap 'kfp-launcher'"),
        (("kubeflow", "configmaps", "hrf-storage"), "there is no ConfigMap 'hrf-storage'"),
        (("kubeflow", "secrets", "hrf-s3"), "there is no secret 'hrf-s3'"),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else "",
)
def test_what_is_missing_is_said_before_anything_is_sent(hrf, kfp, prepared, key, said):
    del prepared.objects[key]
    result = hrf("submit", *SMOKE, *STORAGE)
    assert result.exit_code == 7, result.output
    assert said in words(result)
    assert kfp.state.runs == kfp.state.pipelines == []
    result = hrf("schedule", *SMOKE, *STORAGE, "--cron", "0 0 3 * * *", "--yes")
    assert result.exit_code == 7
    assert kfp.state.recurring_runs == []


def test_a_prepared_cluster_is_submitted_to(hrf, kfp, prepared):
    result = hrf("submit", *SMOKE, *STORAGE)
    assert result.exit_code == 0, result.output
    assert len(kfp.state.runs) == 1


@pytest.mark.parametrize(
    "data", [{"templateDefaults": yaml.safe_dump(ARGO)}, {"config": yaml.safe_dump({"templateDefaults": ARGO})}]
)
def test_argos_own_retry_policy_is_told(kfp, prepared, data):
    prepared.objects["kubeflow", "configmaps", "workflow-controller-configmap"]["data"] = data
    assert "OnError" in _wrong()["retries"]
    refuse_unprepared(_findings(), "host")


def test_the_launchers_default_of_kubeflow_itself_is_refused(kfp, prepared):
    prepared.objects["kubeflow", "configmaps", "kfp-launcher"]["data"] = {"defaultPipelineRoot": "minio://mlpipeline"}
    with pytest.raises(ClusterError, match="minio://mlpipeline"):
        refuse_unprepared(_findings(), "host")


def test_two_stores_and_another_bucket_are_told(kfp, prepared):
    assert "for the bucket 'hrf', and runs are to use 'other'" in _wrong(storage="s3://other/x")["storage"]
    prepared.objects["kubeflow", "configmaps", "hrf-storage"]["data"]["AWS_ENDPOINT_URL_S3"] = "http://elsewhere"
    assert "http://elsewhere" in _wrong()["storage"]


def test_keys_that_come_from_a_role_need_no_secret(kfp, prepared):
    del prepared.objects["kubeflow", "secrets", "hrf-s3"]
    launcher = prepared.objects["kubeflow", "configmaps", "kfp-launcher"]["data"]
    launcher["providers"] = yaml.safe_dump({"s3": {"default": {"region": "x", "credentials": {"fromEnv": True}}}})
    assert _wrong() == {}


def test_what_may_not_be_seen_refuses_nothing(hrf, kfp, prepared):
    prepared.accounts["admin"] = Account(
        "you", [{"verbs": ["get"], "apiGroups": [""], "resources": ["serviceaccounts"]}]
    )
    assert set(_wrong()) == {"namespace", "launcher", "storage", "secret", "retries"}
    assert hrf("submit", *SMOKE, *STORAGE).exit_code == 0


def test_a_kubeconfig_of_another_cluster_is_noticed(kfp, kubernetes):
    (finding,) = _findings()
    assert "no Kubeflow is there" in finding.detail
    assert "KUBECONFIG" in finding.fix


def test_without_a_kubeconfig_the_command_to_look_with_is_told(hrf, kfp):
    result = hrf("doctor", "--cluster", *STORAGE)
    assert result.exit_code == 0, result.output
    assert "ok kubeflow" in words(result)
    assert "kubectl get serviceaccounts,configmaps,secrets -n kubeflow" in words(result)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"apiVersion: v1"])
def test_a_kubeconfig_that_can_not_be_read_is_none(kfp, monkeypatch, tmp_path, content):
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (finding,) = _findings()
    assert "can't be looked at" in finding.detail


def test_the_namespace_of_several_users_is_theirs(kfp, prepared):
    kfp.state.multi_user = True
    arguments = {"service_account": "hrf-runner", "storage": "s3://hrf"}
    (finding,) = check_cluster(Cluster.connect(namespace="team-a"), read_placement("cpu-small"), **arguments)
    assert finding.detail == "there is no namespace 'team-a'"


def test_a_pod_tries_what_a_step_would_use(hrf, kfp, prepared, storage_uri, s3_environment, tmp_path, monkeypatch):
    """The container's command is run for real, with what Secret and ConfigMap give it."""
    program = tmp_path / "bin" / "hrf"
    program.parent.mkdir()
    root = Path(__file__).resolve().parents[3]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m hrf_pipelines.cli.main "$@"\n')
    program.chmod(0o755)
    prepared.command_path = f"{program.parent}:{os.defpath}"
    keys = {name: base64.b64encode(s3_environment[name].encode()).decode() for name in KEYS}
    prepared.objects["kubeflow", "secrets", "hrf-s3"]["data"] = keys
    told = prepared.objects["kubeflow", "configmaps", "hrf-storage"]["data"]
    told["AWS_ENDPOINT_URL_S3"] = s3_environment["AWS_ENDPOINT_URL_S3"]
    monkeypatch.setattr(doctor_pod, "POLL_SECONDS", 0.1)
    result = hrf("doctor", "--cluster", "--run", "--storage", storage_uri)
    assert result.exit_code == 0, result.output
    assert f"ok store {storage_uri}: read, written, conditional writes honoured" in words(result)
    for name in ("image", "revision", "memory", "cpus", "gpus", "shared memory", "rights"):
        assert f" {name} " in words(result)
    assert not any(resource == "pods" for _, resource, _ in prepared.objects)


def test_a_pod_that_can_not_use_the_store_says_why(hrf, kfp, prepared, storage_uri, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "hrf"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no such option; exit 2\n")
    program.chmod(0o755)
    prepared.command_path = f"{program.parent}:{os.defpath}"
    monkeypatch.setattr(doctor_pod, "POLL_SECONDS", 0.1)
    result = hrf("doctor", "--cluster", "--run", "--storage", storage_uri)
    assert result.exit_code == 1
    assert "it ended as Failed and said: no such option" in words(result)


@pytest.mark.parametrize("name", ["cpu-small", "gpu"])
def test_the_pod_is_one_that_kubernetes_takes(name):
    pod = make_pod("x", read_placement(name), Images(), service_account="hrf-runner", storage="s3://hrf")
    check({**pod, "metadata": {**pod["metadata"], "namespace": "kubeflow"}})
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == read_placement(name).worker.memory
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "gpu")


def test_what_a_pod_waits_for_is_read_as_kubernetes_tells_it():
    pending = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes: Insufficient",
    }
    assert waiting_for({"status": {"conditions": [pending]}}) == "0/1 nodes: Insufficient"
    waiting = {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    assert waiting_for({"status": {"containerStatuses": [waiting]}}) == "ErrImagePull: not found"
    assert waiting_for({"status": {"phase": "Running"}}) == ""


def test_options_without_effect_are_refused(hrf):
    assert hrf("doctor", "--run").exit_code == 3
    assert hrf("doctor", "--host", "http://x").exit_code == 3
    assert hrf("doctor", "--image", "--pod").exit_code == 2
