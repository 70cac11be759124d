"""An S3 server that answers what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LISTING = '<?xml version="1.0"?><ListBucketResult>{}<IsTruncated>false</IsTruncated></ListBucketResult>'


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Of the body only so many bytes are sent, before the connection is closed."""
    resets: bool = False
    """Whether it is closed by a reset."""
    chunked: bool = False
    stalls_seconds: float = 0.0
    """How long nothing comes before it is closed."""


def refusal(code: str, status: int) -> Answer:
    return Answer(status=status, body=f"<Error><Code>{code}</Code><Region>eu-west-3</Region></Error>")


def listing(**sizes: int) -> Answer:
    """Of objects by key; `__` in a key stands for a slash."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;{size}&quot;</ETag></Contents>"
        for key, size in sizes.items()
    )
    return Answer(body=LISTING.format(entries))


class AnsweringS3:
    """What was asked of the server, and where it is."""

    def __init__(self, port: int) -> None:
        self.environment = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        }
        self.asked: list[str] = []
        """Method and path of each request."""
        self.headers: list[dict[str, str]] = []


@contextmanager
def answering(answer: Callable[[str, int], Answer]) -> Iterator[AnsweringS3]:
    """A server for the block. `answer` gets method and path, and the number of the request from 1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.command} {self.path}"
            s3.asked.append(asked)
            s3.headers.append(dict(self.headers))
            self._send(answer(asked, len(s3.asked)))

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def _send(self, told: Answer) -> None:
            body = told.body.encode()
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            if told.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: told.cut])
            if told.cut is not None:
                self.close_connection = True
                self.wfile.flush()
                time.sleep(told.stalls_seconds)
                if told.resets:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        s3 = AnsweringS3(server.server_port)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield s3
        server.shutdown()
