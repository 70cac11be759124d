"""The API over HTTP, on the loopback."""

from __future__ import annotations

import contextlib
import email
import email.policy
import functools
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.kfp_api.definitions import from_package, from_swagger, swagger_file
from tests.kfp_api.state import RefusedError, State
from tests.kfp_api.validation import Request, Validator


@dataclass
class Trouble:
    """An answer that is not the API's: of a gateway, a login page, or a server that starts."""

    status: int
    content_type: str = "text/plain"
    body: bytes = b"upstream connect error"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Sent:
    """What came in, to be looked through by tests."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@functools.cache
def validators() -> list[Validator]:
    """All that is known of the API: the package's own account, and KFP's definition where it is at hand."""
    found = [Validator(from_package(), "kfp-server-api")]
    file = swagger_file()
    return [*found, Validator(from_swagger(file), "swagger")] if file else found


class KfpServer:
    """A server. Made by `serve`.

    Attributes:
        state: What it keeps.
        url: Its address.
        token: The bearer token that it wants, or "".
        forbidden: Whether it refuses everybody, whoever they are.
        troubles: Answered instead of the next requests, one each.
        delay_seconds: How long it thinks before it answers.
        special: Requests such as `POST /apis/v2beta1/runs` that have a trouble, or a delay in seconds, of their own.
        violations: All that was wrong with a request or an answer so far.
        sent: All that came in.
    """

    def __init__(self) -> None:
        self._validators = validators()
        self.state = State(validator=self._validators[-1])
        self.token = ""
        self.forbidden = False
        self.troubles: list[Trouble] = []
        self.delay_seconds = 0.0
        self.special: dict[str, Trouble | float] = {}
        self.violations: list[str] = []
        self.sent: list[Sent] = []
        self.lock = threading.Lock()
        self.url = ""

    def calls(self, method: str, part: str) -> list[Sent]:
        """The requests with that method whose path has that part."""
        return [sent for sent in self.sent if sent.method == method and part in urlsplit(sent.target).path]

    def answer(self, request: Request, authorization: str) -> tuple[int, Any]:
        """Status and JSON for a request."""
        problems = [problem for validator in self._validators for problem in validator.request_problems(request)]
        if problems:
            self.violations += problems
            return 400, RefusedError(400, "; ".join(problems)).body()
        try:
            if self.token and authorization != f"Bearer {self.token}":
                raise RefusedError(401, "Request header error: there is no valid user identity")
            if self.forbidden:
                raise RefusedError(403, "User 'you' is not authorized with reason: (request: verb create)")
            status, body = 200, self._operate(request)
        except RefusedError as error:
            status, body = error.status, error.body()
        self.violations += [
            problem for validator in self._validators for problem in validator.response_problems(request, status, body)
        ]
        return status, body

    def _operate(self, request: Request) -> Any:
        state, body, query = self.state, request.body, dict(request.query)
        *_, template = self._validators[-1].route(request).split("/apis/v2beta1/")
        given = _path_values(f"/apis/v2beta1/{template}", request.path)
        operations = {
            "GET healthz": lambda: {"multi_user": state.multi_user, "pipeline_store": "database"},
            "GET pipelines": lambda: state.list("pipelines", state.pipelines, query),
            "POST pipelines": lambda: state.create_pipeline(body),
            "POST pipelines/upload_version": lambda: state.upload_version(query, request.files["uploadfile"]),
            "GET pipelines/{pipeline_id}/versions": lambda: state.list(
                "pipeline_versions",
                [entry for entry in state.versions if entry["pipeline_id"] == given["pipeline_id"]],
                query,
            ),
            "GET pipelines/{pipeline_id}/versions/{pipeline_version_id}": lambda: state.get_version(
                pipeline_id=given["pipeline_id"], version_id=given["pipeline_version_id"]
            ),
            "GET experiments": lambda: state.list("experiments", state.experiments, query),
            "POST experiments": lambda: state.create_experiment(body),
            "GET runs": lambda: state.list("runs", state.runs, query),
            "POST runs": lambda: state.create_run(body),
            "GET runs/{run_id}": lambda: state.get_run(given["run_id"]),
            "GET recurringruns": lambda: state.list("recurringRuns", state.recurring_runs, query),
            "POST recurringruns": lambda: state.create_recurring_run(body),
            "DELETE recurringruns/{recurring_run_id}": lambda: state.delete_recurring_run(
                given["recurring_run_id"], query.get("propagation_policy", "")
            ),
            "POST recurringruns/{recurring_run_id}:enable": lambda: state.switch_recurring_run(
                given["recurring_run_id"], on=True
            ),
            "POST recurringruns/{recurring_run_id}:disable": lambda: state.switch_recurring_run(
                given["recurring_run_id"], on=False
            ),
        }
        operation = operations.get(f"{request.method} {template}")
        if operation is None:
            self.violations.append(f"this server does not play {request.method} {template}")
            raise RefusedError(500, "not played")
        return json.loads(json.dumps(operation()))


@contextlib.contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[KfpServer]:
    """A server on a free port, which ends with the block.

    Args:
        tls: What it proves itself with; without it, it speaks plain HTTP.
    """
    server = KfpServer()

    class Handler(_Handler):
        kfp = server

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    if tls:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    kfp: KfpServer
    protocol_version = "HTTP/1.1"
    #: Buffered, as an answer in two packets waits for the first one's receipt.
    wbufsize = -1

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        with self.kfp.lock:
            self.kfp.sent.append(Sent(self.command, self.path, dict(self.headers), content))
            trouble = self.kfp.troubles.pop(0) if self.kfp.troubles else None
        special = self.kfp.special.get(f"{self.command} {urlsplit(self.path).path}", self.kfp.delay_seconds)
        if isinstance(special, Trouble):
            trouble = special
        else:
            time.sleep(special)
        if trouble:
            self._reply(trouble.status, trouble.content_type, trouble.body, trouble.headers)
            return
        parts = urlsplit(self.path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        kind = self.headers.get("content-type") or ""
        with self.kfp.lock:
            try:
                body, files = _read_body(kind, content)
            except ValueError as error:
                self.kfp.violations.append(f"unreadable body: {error}")
                body, files = None, {}
            request = Request(
                method=self.command, path=parts.path, query=query, content_type=kind, body=body, files=files
            )
            status, answer = self.kfp.answer(request, self.headers.get("authorization") or "")
        self._reply(status, "application/json", json.dumps(answer).encode(), {})

    def __getattr__(self, name: str) -> Any:
        """One way for all methods: whether there is such an operation, the definition says."""
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def _reply(self, status: int, kind: str, content: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _read_body(kind: str, content: bytes) -> tuple[Any, dict[str, bytes]]:
    if kind.startswith("multipart/form-data"):
        message = email.message_from_bytes(
            b"content-type: " + kind.encode() + b"\r\n\r\n" + content, policy=email.policy.HTTP
        )
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        return None, {name: part.get_payload(decode=True) for name, part in parts.items()}
    return (json.loads(content) if content else None), {}


def _path_values(template: str, path: str) -> dict[str, str]:
    """The values of a path's variables."""
    pattern = re.sub(r"\\\{([^}]*)\\\}", lambda match: f"(?P<{match[1]}>[^/]+?)", re.escape(template))
    return {name: unquote(value) for name, value in re.fullmatch(pattern, path).groupdict().items()}
