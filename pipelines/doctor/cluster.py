"""What runs need on a cluster, looked at before one is started, as far as the user's kubeconfig lets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrf.errors import ClusterError, HrfError
from hrf.storage.objects import split_uri
from hrf_pipelines.cluster.connection import KUBEFLOW, Cluster
from hrf_pipelines.cluster.kubernetes import Kubernetes, in_namespace
from hrf_pipelines.doctor.checks import Finding, fail, ok, warn
from hrf_pipelines.placement import Placement

LAUNCHER = "kfp-launcher"
#: What a finding is called that says that nothing could be looked at.
NOT_LOOKED = "kubernetes"
#: What it says of something that the user may not look at.
UNSEEN = "can't be seen"
_APPLY = "apply the manifests for this namespace (manifests/README.md)"


def check_cluster(cluster: Cluster, placement: Placement, *, service_account: str, storage: str = "") -> list[Finding]:
    """Look at what a run's pods need: namespace, account, ConfigMaps, Secrets, claims; and whether retries work.

    Returns:
        What was seen. Where there is no kubeconfig, or it is of another cluster, one finding that says so.
    """
    namespace = cluster.run_namespace
    try:
        kubernetes = Kubernetes.connect()
        if kubernetes.find(in_namespace(KUBEFLOW, "services", "ml-pipeline")) is None:
            raise ClusterError(
                f"context {kubernetes.context!r}",
                problem=f"no Kubeflow is there, in the namespace {KUBEFLOW}",
                fix="set KUBECONFIG to that of the cluster",
            )
    except ClusterError as error:
        if error.status not in (401, 403):
            return [_not_looked(error, namespace)]
    return [*_Look(kubernetes, namespace, storage).findings(placement, service_account)]


def refuse_unprepared(findings: list[Finding], host: str) -> None:
    """Refuse to start what would fail.

    Raises:
        ClusterError: Something that every run needs is missing.
    """
    failed = [finding for finding in findings if finding.level == "fail"]
    if failed:
        raise ClusterError(
            host,
            problem="a run would fail there: " + "; ".join(finding.detail for finding in failed),
            fix="; ".join(dict.fromkeys(finding.fix for finding in failed))
            + ". `hrf doctor --cluster` shows all of it; a kubeconfig of another cluster misleads it: set KUBECONFIG",
        )


class _Look:
    """One look at a namespace."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, storage: str) -> None:
        self._kubernetes, self._namespace, self._storage = kubernetes, namespace, storage

    def findings(self, placement: Placement, service_account: str) -> list[Finding]:
        """All of them; where the namespace is missing, that alone."""
        name = self._namespace
        there = self._see("namespace", f"/api/v1/namespaces/{name}", name, _APPLY)
        if there.level == "fail":
            return [there]
        found = [there]
        if service_account:
            found.append(self._see_own("service account", "serviceaccounts", service_account, _APPLY))
        launcher, told = self._data(LAUNCHER), self._data(placement.storage_config)
        found.append(self._launcher(launcher))
        if placement.storage_config:
            found.append(self._storage_config(placement.storage_config, told, launcher))
        if placement.storage_secret and not _has_role(launcher):
            found.append(self._secret(placement.storage_secret))
        found += [self._secret(secret) for secret in (placement.hub_secret, placement.reward_secret) if secret]
        if placement.image_pull_secret:
            found.append(self._secret(placement.image_pull_secret))
        if placement.hub_cache:
            found.append(self._see_own("hub cache", "persistentvolumeclaims", placement.hub_cache, _APPLY))
        return [*found, self._retries()]

    def _see(self, what: str, path: str, name: str, fix: str) -> Finding:
        try:
            found = self._kubernetes.find(path)
        except ClusterError as error:
            return warn(what, f"{name}: {UNSEEN} ({error.problem})", fix="look at it with an account that may")
        if found is None:
            where = "" if what == "namespace" else f" in the namespace {self._namespace}"
            return fail(what, f"there is no {what} {name!r}{where}", fix=fix)
        return ok(what, name)

    def _see_own(self, what: str, resource: str, name: str, fix: str) -> Finding:
        return self._see(what, in_namespace(self._namespace, resource, name), name, fix)

    def _secret(self, name: str) -> Finding:
        fix = f"kubectl create secret generic {name} -n {self._namespace} --from-env-file=manifests/secrets/{name}.env"
        return self._see_own("secret", "secrets", name, fix)

    def _data(self, name: str) -> Mapping[str, Any] | HrfError | None:
        """A ConfigMap's contents; None where there is none, and the error where it can't be seen."""
        try:
            found = self._kubernetes.find(in_namespace(self._namespace, "configmaps", name)) if name else None
        except ClusterError as error:
            return error
        return None if found is None else dict(found.get("data") or {})

    def _unread(self, name: str, config: str, error: HrfError | None) -> Finding:
        if error:
            return warn(name, f"{config}: {UNSEEN}")
        return fail(name, f"there is no ConfigMap {config!r} in the namespace {self._namespace}", fix=_APPLY)

    def _launcher(self, data: Mapping[str, Any] | HrfError | None) -> Finding:
        name = "launcher"
        if data is None or isinstance(data, HrfError):
            return self._unread(name, LAUNCHER, data)
        root = str(data.get("defaultPipelineRoot", ""))
        if not root.startswith("s3://") or "s3" not in _parsed(data.get("providers", "")):
            where = root or "its default"
            return fail(name, f"{LAUNCHER} keeps artifacts at {where}, without a provider s3", fix=_APPLY)
        return ok(name, f"{LAUNCHER}, artifacts at {root}")

    def _storage_config(self, config: str, data: Any, launcher: Any) -> Finding:
        name = "storage"
        if data is None or isinstance(data, HrfError):
            return self._unread(name, config, data)
        endpoint, other = data.get("AWS_ENDPOINT_URL_S3"), _provider(launcher).get("endpoint")
        if other and endpoint and endpoint != other:
            differ = f"{config} says {endpoint}, {LAUNCHER} {other}"
            return warn(name, differ, fix="name the same store in both, if it is one")
        bucket, wanted = data.get("HRF_BUCKET"), split_uri(self._storage)[0] if self._storage else ""
        if bucket and wanted and bucket != wanted:
            differ = f"{config} is for the bucket {bucket!r}, and runs are to use {wanted!r}"
            return warn(name, differ, fix="check --storage or HRF_BUCKET")
        return ok(name, f"{config}, {endpoint or 'AWS'}")

    def _retries(self) -> Finding:
        """Whether Argo tries a failed step again, whatever its placement says."""
        name, where = "retries", "workflow-controller-configmap"
        try:
            found = self._kubernetes.find(in_namespace(KUBEFLOW, "configmaps", where)) or {}
        except ClusterError:
            return warn(name, f"{where}: {UNSEEN}")
        data = found.get("data") or {}
        settings = {**_parsed(data.get("config", "")), **data}
        defaults = settings.get("templateDefaults") or {}
        defaults = _parsed(defaults) if isinstance(defaults, str) else defaults
        policy = (defaults.get("retryStrategy") or {}).get("retryPolicy")
        if policy in ("OnError", "OnTransientError"):
            told = f"Argo's own retryPolicy {policy} goes before a placement's `retries`: no failed step is tried again"
            fix = "`hrf submit --wait --resumes N`, or change Argo's ConfigMap (docs/cluster.md)"
            return warn(name, told, fix=fix)
        return ok(name, "Argo tries failed steps again as a placement says")


def _not_looked(error: ClusterError, namespace: str) -> Finding:
    command = f"kubectl get serviceaccounts,configmaps,secrets -n {namespace}"
    detail = f"the namespace {namespace} can't be looked at: {error.where}: {error.problem}"
    return warn(NOT_LOOKED, detail, fix=f"{error.fix}; or look yourself: {command}")


def _provider(launcher: Any) -> dict[str, Any]:
    data = launcher if isinstance(launcher, dict) else {}
    return dict((_parsed(data.get("providers", "")).get("s3") or {}).get("default") or {})


def _has_role(launcher: Any) -> bool:
    """Whether keys come from elsewhere than a Secret, such as a role of AWS."""
    return bool((_provider(launcher).get("credentials") or {}).get("fromEnv"))


def _parsed(text: str) -> dict[str, Any]:
    """Settings that others read as YAML 1.1."""
    import yaml

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return read if isinstance(read, dict) else {}
