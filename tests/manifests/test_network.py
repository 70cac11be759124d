"""Who may talk to whom: the policies against the labels that Kubeflow really puts on pods."""

import pytest

from tests.manifests.kustomize import FOLDERS, build, find

#: Kubeflow 2.17 gives these to all pods of a run (argocompiler/argo.go, apiserver/template/v2_template.go).
RUN_POD = {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": "0000"}
#: Its own pods' labels and the ports that drivers, launchers and Argo's executor open (its manifests of 2.17).
KUBEFLOW = [
    ({"app": "ml-pipeline"}, 8887),
    ({"component": "metadata-grpc-server"}, 8080),
    ({"app": "seaweedfs"}, 8333),
]
STORE_FOLDERS = ("overlays/seaweedfs", "overlays/cpu-small")


def _selects(selector, labels):
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def _matches(peer, labels, namespace):
    """Whether a peer is a pod of a namespace; none given means the policy's own."""
    given = peer.get("namespaceSelector")
    inside = namespace == "hrf" if given is None else _selects(given, {"kubernetes.io/metadata.name": namespace})
    return inside and _selects(peer.get("podSelector", {}), labels)


def _allowed(folder, direction, own, labels, namespace, port):
    """Whether the policies that hold for a pod let a TCP connection through."""
    policies = [each["spec"] for each in build(folder) if each["kind"] == "NetworkPolicy"]
    policies = [each for each in policies if _selects(each["podSelector"], own) and direction in each["policyTypes"]]
    if not policies:
        return True
    side = "to" if direction == "Egress" else "from"
    for rule in (rule for each in policies for rule in each.get(direction.lower()) or []):
        peer_fits = side not in rule or any(_matches(peer, labels, namespace) for peer in rule[side])
        port_fits = "ports" not in rule or any(
            each["port"] == port for each in rule["ports"] if each["protocol"] == "TCP"
        )
        if peer_fits and port_fits:
            return True
    return False


def _store(folder):
    return find(build(folder), "StatefulSet", "hrf-seaweedfs")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_run_s_pods_take_no_connection(folder):
    for namespace, labels in [("hrf", RUN_POD), ("kubeflow", {"app": "ml-pipeline-ui"}), ("other", {})]:
        assert not _allowed(folder, "Ingress", RUN_POD, labels, namespace, 8080)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(("labels", "port"), KUBEFLOW)
def test_a_run_s_pods_reach_what_kubeflow_needs_them_to(folder, labels, port):
    assert _allowed(folder, "Egress", RUN_POD, labels, "kubeflow", port)
    assert not _allowed(folder, "Egress", RUN_POD, labels, "other", port)
    assert not _allowed(folder, "Egress", RUN_POD, labels, "kubeflow", port + 1)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("port", [53, 443, 6443, 8443])
def test_a_run_s_pods_reach_names_https_and_the_kubernetes_api(folder, port):
    assert _allowed(folder, "Egress", RUN_POD, {}, "outside", port)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("port", [22, 80, 8000, 3306])
def test_a_run_s_pods_reach_nothing_else_outside(folder, port):
    assert not _allowed(folder, "Egress", RUN_POD, {}, "outside", port)


@pytest.mark.parametrize("folder", STORE_FOLDERS)
def test_runs_and_kubeflow_reach_the_store_and_nobody_else_does(folder):
    store = _store(folder)
    assert _allowed(folder, "Egress", RUN_POD, store, "hrf", 8333)
    assert _allowed(folder, "Ingress", store, RUN_POD, "hrf", 8333)
    for app in ("ml-pipeline", "ml-pipeline-ui"):
        assert _allowed(folder, "Ingress", store, {"app": app}, "kubeflow", 8333)
    assert _allowed(folder, "Ingress", store, {"app": "ml-pipeline-ui-artifact"}, "hrf", 8333)
    for labels, namespace in [({}, "hrf"), (RUN_POD, "other"), ({"app": "ml-pipeline"}, "other"), ({}, "kubeflow")]:
        assert not _allowed(folder, "Ingress", store, labels, namespace, 8333)


@pytest.mark.parametrize("folder", STORE_FOLDERS)
def test_what_is_behind_the_store_s_s3_is_closed_to_all(folder):
    for port in (8888, 9333, 18333, 8080):
        assert not _allowed(folder, "Ingress", _store(folder), RUN_POD, "hrf", port)
    assert not _allowed(folder, "Egress", _store(folder), {}, "outside", 443)


@pytest.mark.parametrize("folder", STORE_FOLDERS)
def test_the_service_leads_to_the_store_s_pod(folder):
    service = find(build(folder), "Service", "hrf-seaweedfs")["spec"]
    assert _selects({"matchLabels": service["selector"]}, _store(folder))
    (port,) = service["ports"]
    spec = find(build(folder), "StatefulSet", "hrf-seaweedfs")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert {"name": port["targetPort"], "containerPort": 8333} in container["ports"]
    assert f"-s3.port={port['port']}" in container["args"]
    assert _selects(spec["selector"], _store(folder))
