"""The connection to a Kubeflow Pipelines API, and what its errors mean.

Host and namespace come from options or HRF_KFP_HOST and HRF_KFP_NAMESPACE. A token comes only from the environment:
HRF_KFP_TOKEN, or whatever kfp reads itself (KF_PIPELINES_SA_TOKEN_PATH in a pod, the IAP variables on Google's cloud).
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from hrf.errors import ClusterError
from hrf.storage.secrets import KUBEFLOW_TOKEN as TOKEN
from hrf.storage.secrets import check_secrets

HOST, NAMESPACE, CA_FILE = "HRF_KFP_HOST", "HRF_KFP_NAMESPACE", "HRF_KFP_CA_FILE"
#: Set by Kubeflow in notebooks that may use the API.
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
#: Where Kubeflow is, by its own manifests.
KUBEFLOW = "kubeflow"
CONNECT_SECONDS, ANSWER_SECONDS = 5, 60
#: A question is asked again after these pauses; a command never is, as it may have been carried out.
PAUSES = (0.5, 1.0, 2.0)
#: A gateway or a server that is starting says these.
BUSY = frozenset({429, 502, 503, 504})
#: The most that the server puts on a page.
PAGE_SIZE = 200


class UnreachableError(ClusterError):
    """No answer came from the cluster."""


def is_passing(error: ClusterError) -> bool:
    """Whether an error may be gone when the same is asked again."""
    return isinstance(error, UnreachableError) or error.status in BUSY


class Cluster:
    """One Kubeflow Pipelines API. Made by `connect`.

    Attributes:
        api: The client: `api.runs`, `api.experiments` and so on hold the calls, for `ask` and `tell`.
        host: The API's address, to be shown.
        namespace: The namespace that everything is in; empty on a cluster for a single user, which has no such notion.
        run_namespace: The namespace of the runs' pods: on a cluster for a single user that of Kubeflow itself.
    """

    def __init__(self, api: Any, host: str, namespace: str) -> None:
        self.api, self.host, self.namespace = api, host, namespace
        self.run_namespace = namespace or KUBEFLOW
        self._wire = _wire_of(api)

    @classmethod
    def connect(cls, host: str = "", namespace: str = "") -> Self:
        """Find the API and prove that it answers; what is empty comes from HRF_KFP_HOST and HRF_KFP_NAMESPACE.

        Raises:
            ClusterError: There is no address, no answer, no permission, or no Kubeflow Pipelines API.
            ConfigError: A secret is short or common.
        """
        check_secrets()
        address = _checked_address(host or os.environ.get(HOST, ""))
        wanted = namespace or os.environ.get(NAMESPACE, "")
        client = _make_client(address, wanted)
        cluster = cls(client, address, wanted or client.get_user_namespace())
        about = cluster.ask(client.healthzs.healthz_service_get_healthz)
        if not about.multi_user:
            # Such a cluster refuses requests that name a namespace. One that is named is where Kubeflow is.
            cluster.namespace, cluster.run_namespace = "", wanted or KUBEFLOW
        elif not cluster.namespace:
            raise ClusterError(
                address,
                problem="this cluster has several users, and no namespace is named",
                fix=f"give --namespace or {NAMESPACE}: the namespace of your Kubeflow profile",
            )
        return cluster

    def ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Ask for something by a call of `api`; a server that is busy or away for a moment is asked again."""
        for pause in (*PAUSES, None):
            try:
                return self._send(call, arguments)
            except ClusterError as error:
                if pause is None or not is_passing(error):
                    raise
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def tell(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Have something done, once: whether it was done is not known where no answer comes."""
        try:
            return self._send(call, arguments)
        except UnreachableError as error:
            raise UnreachableError(
                self.host,
                problem=f"{error.problem}; whether the server did what it was told is not known",
                fix="look with `hrf runs --cluster` or `hrf schedules list` before you give the command again",
            ) from None

    def list_all(self, call: Callable[..., Any], field: str, **arguments: Any) -> Iterator[Any]:
        """Everything that a listing call of `api` has under a field of its answers, page by page."""
        token = ""
        while True:
            page = self.ask(call, page_token=token, page_size=PAGE_SIZE, **arguments)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def scoped(self) -> dict[str, str]:
        """The argument that keeps a listing to the user's namespace, where there are namespaces."""
        return {"namespace": self.namespace} if self.namespace else {}

    def link(self, path: str) -> str:
        """Address of a page of the UI, such as `runs/details/ID`."""
        base = os.environ.get("KF_PIPELINES_UI_ENDPOINT", "").rstrip("/") or self.host
        return f"{base}/#/{path}"

    def _send(self, call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = call(**arguments, _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
        except ApiException as error:
            # The cause is left out here and below: it holds headers and whole answers, which can repeat secrets.
            raise self._refusal(error) from None
        except HTTPError as error:
            raise self._silence(error) from None
        except ValueError:
            raise self._no_api("answers in a way that is not Kubeflow's") from None
        kind = self._wire.last_response.getheader("content-type") or ""
        if not kind.startswith("application/json"):
            raise self._no_api(
                f"answers with {kind.partition(';')[0] or 'something'} in place of JSON, as a login does"
            )
        return answer

    def _without_token(self, text: str) -> str:
        """A text with the token blotted out, should a server repeat it."""
        for token in self._wire.configuration.api_key.values():
            text = text.replace(token, "<token>") if token else text
        return text

    def _refusal(self, error: Any) -> ClusterError:
        told = _told(error.body)
        said = f": {self._without_token(told)}" if told else ""
        if error.status == 401:
            problem = "the server refuses the token" if _has_token() else "the server asks for a token"
            return ClusterError(self.host, problem=f"{problem} (HTTP 401)", fix=_TOKEN_FIX, status=401)
        if error.status == 403:
            where = f" in namespace {self.namespace!r}" if self.namespace else ""
            return ClusterError(
                self.host,
                problem=f"this account may not do that{where} (HTTP 403){said}",
                fix="check the namespace, or have the account allowed to edit pipelines there",
                status=403,
            )
        if 300 <= error.status < 400:
            return self._no_api("sends elsewhere, as to a login page", status=error.status)
        if told is None and error.status not in BUSY:
            return self._no_api(f"answers with HTTP {error.status}", status=error.status)
        if error.status in BUSY:
            fix = "give the command again in a moment; if it stays so, look at the log of the deployment ml-pipeline"
        elif error.status >= 500:
            fix = "look at the log of the deployment ml-pipeline"
        else:
            fix = "correct what it names"
        return ClusterError(
            self.host,
            problem=f"the server answers HTTP {error.status}{said}",
            fix=fix,
            status=error.status,
        )

    def _silence(self, error: Any) -> ClusterError:
        from urllib3.exceptions import SSLError

        cause = getattr(error, "reason", None) or error
        if isinstance(cause, SSLError):
            return ClusterError(
                self.host,
                problem=f"no trusted connection: {_tls_problem(cause)}",
                fix=f"name the file of your authority's certificate in {CA_FILE}; a server without TLS is http://",
            )
        return UnreachableError(
            self.host,
            problem=f"no answer ({type(cause).__name__})",
            fix="check that the address is right and reachable from here; a kubectl port-forward may have ended",
        )

    def _no_api(self, what: str, status: int | None = None) -> ClusterError:
        return ClusterError(
            self.host,
            problem=f"the server {what}: this is not a Kubeflow Pipelines API, or it lies behind a login",
            fix="name the address below which /apis/v2beta1/healthz answers (behind Kubeflow's gateway it ends in"
            f" /pipeline), and set {TOKEN} where it wants a token",
            status=status,
        )


_TOKEN_FIX = (
    f"set {TOKEN} to a token that is valid now, such as what `kubectl create token hrf-runner"
    " --audience pipelines.kubeflow.org` prints"
)


def _checked_address(given: str) -> str:
    if not given:
        raise ClusterError(
            "cluster",
            problem="no address of a Kubeflow Pipelines API is named",
            fix=f"give --host or {HOST}; for a look from outside:"
            " kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80, then http://localhost:8080",
        )
    try:
        parts = urlsplit(given)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or parts.username or parts.password:
        # Not repeated as it is: it may hold a password.
        raise ClusterError(
            "cluster",
            problem="the address of the API is not http(s)://HOST[:PORT][/PATH] without user and password",
            fix=f"write it like that; a token belongs in {TOKEN}",
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _has_token() -> bool:
    return bool(os.environ.get(TOKEN) or os.environ.get(TOKEN_FILE))


def _make_client(host: str, namespace: str) -> Any:
    import kfp
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
    from urllib3 import Retry

    class Client(kfp.Client):  # type: ignore[misc]
        """kfp's client, without its first request, which it would send for half a minute before it gave up."""

        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 - the parent's signature
            return kfp.client.client.kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)

    token = os.environ.get(TOKEN)
    from_file = ServiceAccountTokenVolumeCredentials() if os.environ.get(TOKEN_FILE) and not token else None
    ca_file = os.environ.get(CA_FILE)
    if ca_file and not os.path.isfile(ca_file):
        raise ClusterError(host, problem=f"{CA_FILE} names no file", fix="correct it, or unset it")
    with warnings.catch_warnings():
        # It warns of servers before 2.0, always.
        warnings.simplefilter("ignore", FutureWarning)
        client = Client(
            host=host,
            namespace=namespace or KUBEFLOW,
            existing_token=token,
            credentials=from_file,
            ssl_ca_cert=ca_file,
        )
    # A redirect is not followed: it leads to a login page, and the token is nobody else's business.
    _wire_of(client).rest_client.pool_manager.connection_pool_kw["retries"] = Retry(total=0, raise_on_redirect=False)
    return client


def _wire_of(client: Any) -> Any:
    """What all calls of a client go through; kfp has it under no name of its own."""
    return client.runs.run_service_get_run.__self__.api_client


def _told(body: str | None) -> str | None:
    """What an answer of the API says is wrong; None if it is not the API's."""
    try:
        content = json.loads(body or "")
    except ValueError:
        return None
    if not isinstance(content, dict) or not {"code", "error_message", "error"} & content.keys():
        return None
    details = [entry.get("message") for entry in content.get("details") or [] if isinstance(entry, dict)]
    told = next(filter(None, [*details, content.get("message"), content.get("error_message")]), "")
    return " ".join(str(told).split())[:500]


def _tls_problem(error: BaseException) -> str:
    text = str(error)
    for sign, meaning in (
        ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not one that this machine trusts"),
        ("WRONG_VERSION_NUMBER", "the server does not speak TLS"),
        ("WRONG_VERSION", "the server does not speak TLS"),
    ):
        if sign in text.upper().replace(" ", "_"):
            return meaning
    return type(error).__name__
