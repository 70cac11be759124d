"""The cluster behind Kubeflow's API, as far as the user's own kubeconfig opens it.

Nothing needs it: what it adds is why a run failed or what a pod waits for, which Kubeflow's API never says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

from hrf.errors import ClusterError

CONNECT_SECONDS, ANSWER_SECONDS = 5, 20
ARGO = "/apis/argoproj.io/v1alpha1"


class Kubernetes:
    """An API server of Kubernetes. Made by `connect`.

    Attributes:
        context: The context of the kubeconfig that names it, to be shown.
    """

    def __init__(self, api: Any, context: str) -> None:
        self._api, self.context = api, context

    @classmethod
    def connect(cls) -> Self:
        """Take the current context of KUBECONFIG or ~/.kube/config, or in a pod its own account.

        Raises:
            ClusterError: There is none.
        """
        import yaml
        from kubernetes import client, config

        settings = client.Configuration()
        # Said here, as the client looks at the variable only once, when it is imported.
        files = os.environ.get("KUBECONFIG") or "~/.kube/config"
        try:
            _, active = config.list_kube_config_contexts(files)
            config.load_kube_config(files, client_configuration=settings)
            context = str(active["name"])
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise ClusterError(
                "kubeconfig", problem=f"{files} can't be read ({type(error).__name__})", fix="correct KUBECONFIG"
            ) from None
        except config.ConfigException:
            try:
                config.load_incluster_config(client_configuration=settings)
            except config.ConfigException:
                raise ClusterError(
                    "kubeconfig", problem="there is none that can be read", fix="name one in KUBECONFIG"
                ) from None
            context = "of this pod's own account"
        settings.retries = 0
        return cls(client.ApiClient(settings), context)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """An object, or a list of some, such as `/api/v1/namespaces/hrf`; a query is such as `labelSelector`.

        Raises:
            ClusterError: It is not there (`status` 404), may not be seen (401, 403), or there is no answer.
        """
        return dict(json.loads(self._call("GET", path, query=query)))

    def find(self, path: str) -> dict[str, Any] | None:
        """As `get`; None where there is no such object."""
        try:
            return self.get(path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object in a collection. Errors as of `get`."""
        return dict(json.loads(self._call("POST", path, body=document)))

    def delete(self, path: str) -> None:
        """Delete an object. Errors as of `get`."""
        self._call("DELETE", path)

    def log(self, namespace: str, pod: str) -> str:
        """What a pod's one container has said. Errors as of `get`."""
        return self._call("GET", f"{in_namespace(namespace, 'pods', pod)}/log")

    def workflow_of(self, namespace: str, run_id: str) -> dict[str, Any] | None:
        """The Workflow of a Kubeflow run; None where there is none (any more). Errors as of `get`."""
        path = f"{ARGO}/namespaces/{quote(namespace)}/workflows"
        found = self.get(path, labelSelector=f"pipeline/runid={run_id}").get("items") or []
        return dict(found[0]) if found else None

    def pods_of(self, namespace: str, run_id: str) -> list[dict[str, Any]]:
        """The pods of a Kubeflow run. Errors as of `get`."""
        found = self.get(in_namespace(namespace, "pods"), labelSelector=f"pipeline/runid={run_id}").get("items")
        return list(found or [])

    def _call(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> str:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "*/*", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                # Read here: the client would take a log that is JSON for an object.
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            )
            return str(answer.data.decode())
        except ApiException as error:
            # The cause is left out: it holds headers and whole answers.
            raise self._refusal(error) from None
        except (HTTPError, OSError) as error:
            cause = getattr(error, "reason", None) or error
            raise ClusterError(
                f"context {self.context!r}",
                problem=f"its API server does not answer ({type(cause).__name__})",
                fix="check the kubeconfig, or set KUBECONFIG to that of the cluster",
            ) from None

    def _refusal(self, error: Any) -> ClusterError:
        try:
            said = str(json.loads(error.body)["message"])
        except (ValueError, KeyError, TypeError):
            said = str(error.reason)
        fix = "have your account allowed to see it" if error.status in (401, 403) else "correct what it names"
        return ClusterError(
            f"context {self.context!r}", problem=f"HTTP {error.status}: {said}", fix=fix, status=error.status
        )


def in_namespace(namespace: str, resource: str, name: str = "") -> str:
    """The path of a core object, or of a collection of them."""
    path = f"/api/v1/namespaces/{quote(namespace)}/{resource}"
    return f"{path}/{quote(name)}" if name else path
