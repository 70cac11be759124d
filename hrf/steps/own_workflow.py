"""Reading the Workflow that a step belongs to, with the account of its own pod. Needs the standard library alone.

The Role `hrf-runner` allows it: get one Workflow, list the pods of its namespace.
"""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hrf.errors import ClusterError

#: Where Kubernetes puts a pod's token, the authority's certificate, and the name of its namespace.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
ANSWER_SECONDS = 20
#: An API server that is replaced is away for the better part of a minute, which runs survive.
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_PASSING = frozenset({429, 500, 502, 503, 504})


def is_in_pod() -> bool:
    """Whether this runs in a pod that may ask the API server."""
    return bool(os.environ.get(HOST)) and (ACCOUNT / "token").is_file()


def read_own_workflow(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the Workflow of this name, which is Kubeflow's of the run, and its pods, in this pod's namespace.

    Returns:
        The Workflow, and its pods; none where they may not be listed, as they only add details.

    Raises:
        ClusterError: The account may not, there is no such Workflow, or no answer.
    """
    namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    workflow = _get(f"/apis/argoproj.io/v1alpha1/namespaces/{quote(namespace)}/workflows/{quote(name, safe='')}")
    try:
        selector = quote(f"workflows.argoproj.io/workflow={name}", safe="")
        pods = _get(f"/api/v1/namespaces/{quote(namespace)}/pods?labelSelector={selector}").get("items") or []
    except ClusterError:
        pods = []
    return workflow, pods


def _get(path: str) -> dict[str, Any]:
    host = os.environ[HOST]
    address = f"https://{f'[{host}]' if ':' in host else host}:{os.environ.get(PORT, '443')}"
    for pause in (*PAUSES, None):
        try:
            return _ask(address, path)
        except urllib.error.HTTPError as error:
            if pause is None or error.code not in _PASSING:
                raise _refusal(address, error) from None
        except OSError as error:
            if pause is None:
                raise ClusterError(
                    address,
                    problem=f"the API server does not answer ({getattr(error, 'reason', None) or error})",
                    fix="look at the run in the UI, or with `hrf runs show RUN --cluster`",
                ) from None
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _ask(address: str, path: str) -> dict[str, Any]:
    # The token is renewed while a pod runs, so it is read each time. It goes to this one server alone.
    token = (ACCOUNT / "token").read_text(encoding="utf-8").strip()
    request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {token}"})
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect()
    )
    with opener.open(request, timeout=ANSWER_SECONDS) as answer:
        return dict(json.load(answer))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: the token is nobody else's business."""


def _refusal(address: str, error: urllib.error.HTTPError) -> ClusterError:
    try:
        said = str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError, OSError):
        said = error.reason
    fixes = {
        403: "give the run's service account the Role hrf-runner of manifests/base/service-account.yaml",
        404: "nothing, if the run was deleted meanwhile",
    }
    return ClusterError(
        address,
        problem=f"the run's own account may not read its Workflow (HTTP 403): {said}"
        if error.code == 403
        else f"HTTP {error.code}: {said}",
        fix=fixes.get(error.code, "look at the run in the UI"),
        status=error.code,
    )
