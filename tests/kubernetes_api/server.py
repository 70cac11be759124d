"""Kubernetes' API over HTTPS, on the loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

Object = dict[str, Any]
#: `/api/v1/namespaces/NS/pods/NAME/log`, `/apis/GROUP/VERSION/namespaces/NS/RESOURCE/NAME`, `/api/v1/namespaces/NS`.
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?(?:/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[a-z]+))?)?)?"
)
_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 503: "ServiceUnavailable"}


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)

    def body(self) -> Object:
        """As Kubernetes writes it."""
        reason = _REASONS.get(self.status, "")
        about = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return {**about, "message": str(self), "reason": reason, "code": self.status}


@dataclass
class Account:
    """Who asks: a user who may do everything, or one with the rules of Roles."""

    name: str
    rules: Sequence[Mapping[str, Any]] | None = None

    def may(self, verb: str, group: str, resource: str, name: str) -> bool:
        """Whether a rule allows it, as RBAC reads rules: names only bind where the request has one."""
        return self.rules is None or any(
            verb in rule["verbs"]
            and group in rule["apiGroups"]
            and resource in rule["resources"]
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for rule in self.rules
        )


@dataclass
class KubernetesServer:
    """A server. Made by `serve`.

    Attributes:
        objects: All there is, by (namespace, resource, name).
        accounts: Who has which token.
        logs: What pods have said, by name.
        away: How many of the next requests find nobody.
        asked: All paths that were asked for, with their verbs.
        command_path: Where the commands of pods' containers are looked for.
    """

    url: str = ""
    ca_file: Path = Path()
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=lambda: {"admin": Account("admin")})
    logs: dict[str, str] = field(default_factory=dict)
    away: int = 0
    asked: list[str] = field(default_factory=list)
    command_path: str = os.defpath
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, document: Object, namespace: str = "") -> None:
        """Put an object there."""
        metadata = document["metadata"]
        place = "" if document["kind"] == "Namespace" else namespace or metadata["namespace"]
        self.objects[place, f"{document['kind'].lower()}s", metadata["name"]] = document

    def kubeconfig(self, folder: Path, token: str = "admin", namespace: str = "default") -> Path:
        """A user's configuration for this server."""
        authority = base64.b64encode(self.ca_file.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(content))
        return file

    def answer(self, method: str, target: str, token: str, content: bytes) -> tuple[int, Any]:
        """Status, and JSON or a text."""
        account = self.accounts.get(token)
        if account is None:
            return 401, RefusedError(401, "Unauthorized").body()
        parts = urlsplit(target)
        match = _PATH.fullmatch(parts.path)
        if match is None:
            return 404, RefusedError(404, "the server could not find the requested resource").body()
        given = {name: value or "" for name, value in match.groupdict().items()}
        if not given["resource"]:
            given = {**given, "resource": "namespaces", "name": given["namespace"], "namespace": ""}
        try:
            return 200, self._operate(method, given, dict(parse_qsl(parts.query)), account, content)
        except RefusedError as error:
            return error.status, error.body()

    def _operate(
        self, method: str, given: Mapping[str, str], query: Mapping[str, str], account: Account, content: bytes
    ) -> Any:
        namespace, resource, name = (given[key] for key in ("namespace", "resource", "name"))
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[method]
        asked = f"{resource}/{given['sub']}" if given["sub"] else resource
        self.asked.append(f"{verb} {asked} {namespace}/{name}")
        full = f"{resource}.{given['group']}" if given["group"] else resource
        if not account.may(verb, given["group"], asked, name):
            what = f'{full} "{name}"' if name else full
            group = f'in API group "{given["group"]}" in the namespace "{namespace}"'
            raise RefusedError(
                403, f'{what} is forbidden: User "{account.name}" cannot {verb} resource "{asked}" {group}'
            )
        if method == "POST":
            return self._create(namespace, resource, json.loads(content))
        if not name:
            wanted = dict(part.split("=") for part in filter(None, query.get("labelSelector", "").split(",")))
            found = [
                entry for (place, kind, _), entry in self.objects.items() if (place, kind) == (namespace, resource)
            ]
            items = [entry for entry in found if wanted.items() <= (entry["metadata"].get("labels") or {}).items()]
            return {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        if (namespace, resource, name) not in self.objects:
            raise RefusedError(404, f'{full} "{name}" not found')
        if method == "DELETE":
            return self.objects.pop((namespace, resource, name))
        return self.logs.get(name, "") if given["sub"] == "log" else self.objects[namespace, resource, name]

    def _create(self, namespace: str, resource: str, document: Object) -> Object:
        if ("", "namespaces", namespace) not in self.objects:
            raise RefusedError(404, f'namespaces "{namespace}" not found')
        account = document["spec"]["serviceAccountName"]
        if (namespace, "serviceaccounts", account) not in self.objects:
            told = f'pods "{document["metadata"]["name"]}" is forbidden: error looking up service account'
            raise RefusedError(403, f'{told} {namespace}/{account}: serviceaccount "{account}" not found')
        document["metadata"]["namespace"] = namespace
        document["status"] = {"phase": "Pending"}
        self.add(document)
        threading.Thread(target=self._start, args=(document,), daemon=True).start()
        return document

    def _start(self, pod: Object) -> None:
        """What a kubelet does, without a container: the command with the environment that the pod asks for."""
        (container,) = pod["spec"]["containers"]
        namespace = pod["metadata"]["namespace"]
        environment = {"PATH": self.command_path}
        for entry in container.get("env", []):
            source = entry.get("valueFrom")
            if source is None:
                environment[entry["name"]] = entry["value"]
                continue
            (kind, reference), *_ = source.items()
            resource = {"secretKeyRef": "secrets", "configMapKeyRef": "configmaps"}[kind]
            data = self.objects.get((namespace, resource, reference["name"]), {}).get("data", {})
            if reference["key"] in data:
                value = data[reference["key"]]
                environment[entry["name"]] = base64.b64decode(value).decode() if resource == "secrets" else value
        done = subprocess.run(
            [*container["command"], *container.get("args", [])], env=environment, capture_output=True, text=True
        )
        with self.lock:
            self.logs[pod["metadata"]["name"]] = done.stdout + done.stderr
            pod["status"] = {"phase": "Succeeded" if done.returncode == 0 else "Failed"}


@contextlib.contextmanager
def serve(certificate: tuple[ssl.SSLContext, Path]) -> Iterator[KubernetesServer]:
    """A server on a free port, which ends with the block.

    Args:
        certificate: As `make_certificate` gives it.
    """
    context, ca_file = certificate
    kubernetes = KubernetesServer(ca_file=ca_file)

    class Handler(_Handler):
        server_state = kubernetes

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    kubernetes.url = f"https://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield kubernetes
    finally:
        http.shutdown()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: KubernetesServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        state = self.server_state
        with state.lock:
            if state.away:
                state.away -= 1
                self.close_connection = True
                return
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            status, answer = state.answer(self.command, self.path, token, content)
            body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        """One way for all methods."""
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""
