"""Every object is one that a cluster takes, to the last field; and the checks themselves can say no."""

import copy

import pytest

from tests.manifests.kustomize import FOLDERS, build, find
from tests.manifests.schemas import InvalidError, check, kubeflow_definitions

CUSTOM = "pipelines.kubeflow.org/v2beta1"
needs_definitions = pytest.mark.skipif(
    kubeflow_definitions() is None,
    reason="Kubeflow's resource definitions are not beside this checkout (shared/kfp); HRF_KFP_DEFINITIONS names them",
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_of_kubernetes_is_valid(folder):
    own = [document for document in build(folder) if document["apiVersion"] != CUSTOM]
    assert own
    for document in own:
        check(document)


@needs_definitions
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_of_kubeflow_is_valid(folder):
    custom = [document for document in build(folder) if document["apiVersion"] == CUSTOM]
    assert [document["kind"] for document in custom] == ["Pipeline", "PipelineVersion"]
    for document in custom:
        check(document)


def _broken(folder, kind, name, path, value):
    document = copy.deepcopy(find(build(folder), kind, name))
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("StatefulSet", "hrf-seaweedfs", ("spec", "replica"), 1),
        ("StatefulSet", "hrf-seaweedfs", ("spec", "replicas"), "one"),
        ("StatefulSet", "hrf-seaweedfs", ("spec", "template", "spec", "containers", 0, "readinessprobe"), {}),
        ("NetworkPolicy", "hrf-runs", ("spec", "policyType"), ["Egress"]),
        ("Role", "hrf-runner", ("rules", 0, "verb"), ["get"]),
        ("ConfigMap", "hrf-storage", ("data", "AWS_REGION"), 1),
        ("PersistentVolumeClaim", "hrf-hub-cache", ("spec", "resources", "request"), {}),
        ("Namespace", "hrf", ("apiVersion",), "v2"),
        ("ServiceAccount", "hrf-runner", ("metadata", "label"), {}),
    ],
)
def test_a_field_that_kubernetes_does_not_know_is_refused(kind, name, path, value):
    with pytest.raises(InvalidError):
        check(_broken("overlays/seaweedfs", kind, name, path, value))


@needs_definitions
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Pipeline", ("spec", "display_name"), "x"),
        ("Pipeline", ("spec", "displayName"), 1),
        ("Pipeline", ("apiVersion",), "pipelines.kubeflow.org/v1"),
        ("Pipeline", ("apiVersion",), "pipelines.kubeflow.org.example/v2beta1"),
        ("Pipeline", ("metadata", "label"), {}),
        ("PipelineVersion", ("spec", "pipeline"), "hrf-finetune"),
        ("PipelineVersion", ("spec", "versionName"), "Capital"),
        ("PipelineVersion", ("metadata", "name"), "under_score"),
    ],
)
def test_a_field_that_kubeflow_does_not_know_is_refused(kind, path, value):
    name = next(document["metadata"]["name"] for document in build("base") if document["kind"] == kind)
    with pytest.raises(InvalidError):
        check(_broken("base", kind, name, path, value))


@needs_definitions
def test_a_version_without_a_pipeline_is_refused():
    version = copy.deepcopy(next(each for each in build("base") if each["kind"] == "PipelineVersion"))
    del version["spec"]["pipelineSpec"]
    with pytest.raises(InvalidError):
        check(version)
