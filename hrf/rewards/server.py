"""The HTTP server of a remote reward, around any reward of this process.

It is the standard library's: a scorer's image needs nothing for it, a thread per connection is enough for the few
clients that a reward has, and a request can be turned away before its body is read.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hrf import __version__
from hrf.errors import HrfError
from hrf.rewards.base import ImageError, Reward
from hrf.rewards.protocol import PROTOCOL, Health, ProtocolError, Scores, decode_request
from hrf.secrets import without_secrets

_CHUNK_BYTES = 2**16
_IDLE_SECONDS = 60.0
"""How long a connection may be silent."""
_RECEIVE_SECONDS = 120.0
"""How long a request's body may take."""
_LINGER_SECONDS = 1.0
"""How long a refused client may be silent before the connection is closed, where the end of its body is unknown."""
_DRAIN_BYTES = 2**28
"""How much of a refused body is read and forgotten: a client that is still sending would not see the refusal."""


class RewardServer(ThreadingHTTPServer):
    """Serves one reward. Every connection has a thread; scoring has one of its own.

    Args:
        reward: What gives the numbers.
        version: Of the reward; it changes whenever its numbers may.
        address: Host and port; port 0 takes any that is free.
        bounds: The reward's lowest and highest value, None where there is no bound.
        token: What requests must show; empty for none.
        most_waiting: Requests that are received, wait or are scored at a time; more are told to come back.
        max_request_bytes: Largest body.
        tls: Certificate and key; None for plain HTTP.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(
        self,
        reward: Reward,
        *,
        version: str,
        address: tuple[str, int] = ("127.0.0.1", 0),
        bounds: tuple[float | None, float | None] = (None, None),
        token: str = "",
        most_waiting: int = 16,
        max_request_bytes: int = 2**28,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.reward = reward
        self.token = token
        self.health = Health(
            protocol=PROTOCOL,
            name=reward.name,
            version=version,
            range=bounds,
            needs_prompts=reward.needs_prompts,
            needs_token=bool(token),
            max_request_bytes=max_request_bytes,
        )
        self._tls = tls
        self._places = threading.BoundedSemaphore(most_waiting)
        self._most_waiting = most_waiting
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")
        self._score_seconds = 1.0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.is_closing = False
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http{'s' if self._tls else ''}://{host!s}:{port}"

    @property
    def retry_after_seconds(self) -> int:
        """When a place should be free, judging by how long scoring takes."""
        return min(60, max(1, math.ceil(self._score_seconds)))

    def take_place(self) -> bool:
        """Take a place in the queue, if there is one; whoever takes it must leave it."""
        return not self.is_closing and self._places.acquire(blocking=False)

    def leave_place(self) -> None:
        """Give the place back."""
        self._places.release()

    def score(self, body: bytes) -> Scores:
        """Score a request, when its turn has come.

        Raises:
            ProtocolError: If the body is no request.
            HrfError: If the reward refuses it.
        """
        return self._scoring.submit(self._score, body).result()

    def _score(self, body: bytes) -> Scores:
        began = time.monotonic()
        images, prompts = decode_request(body)
        rewards = self.reward(images, prompts).tolist()
        self._score_seconds = time.monotonic() - began
        return Scores(name=self.health.name, version=self.health.version, rewards=rewards)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in its thread; the TLS handshake belongs there, where it holds nobody up."""
        request.settimeout(_IDLE_SECONDS)
        if self._tls:
            try:
                request = self._tls.wrap_socket(request, server_side=True)
            except OSError as error:
                log(f"no TLS handshake with {client_address[0]}: {error}")
                return
        with self._lock:
            self._connections.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with self._lock:
                self._connections.discard(request)
            if self._tls:
                request.close()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """A connection that broke off is its client's affair."""
        log(f"connection of {client_address[0]} broke off: {type(sys.exception()).__name__}")

    def stop(self) -> None:
        """Finish what is being scored or waits, refuse the rest, and end. From another thread than the server's."""
        self.is_closing = True
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                # Whoever waits for a next request reads its end.
                # The method of a TLS socket would end writing, too.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RD)
        self.server_close()
        self._scoring.shutdown()


class _Handler(BaseHTTPRequestHandler):
    """One connection, with one request after another."""

    server: RewardServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"hrf/{__version__}", ""
    # An answer goes out in two writes; with Nagle's algorithm the second would wait for the first one's receipt.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """`GET /health`: open to probes, though a wrong token is refused here already."""
        if self.path != "/health":
            self._answer_error(404, "there are GET /health and POST /score")
        elif "Authorization" in self.headers and not self._is_authorised():
            self._answer_error(401, "the token is another one")
        else:
            self._answer(200, self.server.health.encode())

    def do_POST(self) -> None:
        """`POST /score`."""
        began = time.monotonic()
        length = self._length()
        if self.path != "/score":
            self._answer_error(404, "there are GET /health and POST /score", unread=length)
        elif not self._is_authorised():
            self._answer_error(401, "a bearer token is needed, and this is not it", unread=length)
        elif length is None:
            self._answer_error(411, "the request needs a Content-Length", unread=None)
        elif length > self.server.health.max_request_bytes:  # type: ignore[operator]
            most = self.server.health.max_request_bytes
            self._answer_error(413, f"a request has at most {most} bytes, this one {length}", unread=length)
        elif not self.server.take_place():
            self._answer_error(503, "too many requests at a time", unread=length)
        else:
            try:
                body = self._read(length)
                answer = None if body is None else self._score(body)
            finally:
                # Before the answer: whoever has it may come again at once.
                self.server.leave_place()
            if answer is not None:
                self._answer(*answer)
            log(f"{length} bytes in {time.monotonic() - began:.2f} s")

    def _score(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        try:
            return 200, self.server.score(body).encode()
        except ProtocolError as error:
            return 400, _told(str(error))
        except ImageError as error:
            return 422, _told(error.problem, error.image)
        except HrfError as error:
            return 422, _told(str(error))
        except Exception as error:  # noqa: BLE001 - whatever a scorer does, its server answers and goes on.
            log(without_secrets(traceback.format_exc()))
            return 500, _told(f"the scorer failed with {type(error).__name__}; the server's log says where")

    def _length(self) -> int | None:
        length = self.headers.get("Content-Length", "")
        chunked = "Transfer-Encoding" in self.headers
        return int(length) if length.isascii() and length.isdigit() and not chunked else None

    def _is_authorised(self) -> bool:
        expected = f"Bearer {self.server.token}"
        given = self.headers.get("Authorization", "")
        return not self.server.token or hmac.compare_digest(given.encode(), expected.encode())

    def _read(self, length: int) -> bytes | None:
        """The body; None if it doesn't come, or not in time."""
        body = bytearray()
        deadline = time.monotonic() + _RECEIVE_SECONDS
        while len(body) < length:
            chunk = self.rfile.read1(min(_CHUNK_BYTES, length - len(body)))
            if not chunk or time.monotonic() > deadline:
                self.close_connection = True
                log(f"got {len(body)} of {length} bytes")
                return None
            body += chunk
        return bytes(body)

    def _answer(self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        if self.server.is_closing:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _answer_error(self, status: int, error: str, *, unread: int | None = 0) -> None:
        """Turn a request away, and read off its body of `unread` bytes; None: of unknown length."""
        later = [("Retry-After", str(self.server.retry_after_seconds))] if status == 503 else []
        # Without the length of the body, there is no telling where the next request begins.
        self.close_connection |= unread is None or unread > _DRAIN_BYTES
        self._answer(status, _told(error), later)
        self.wfile.flush()
        deadline = time.monotonic() + _RECEIVE_SECONDS
        left = _DRAIN_BYTES if unread is None else min(unread, _DRAIN_BYTES)
        if unread is None:
            self.connection.settimeout(_LINGER_SECONDS)
        while left > 0 and time.monotonic() < deadline:
            chunk = self.rfile.read1(min(_CHUNK_BYTES, left))
            if not chunk:
                break
            left -= len(chunk)

    def log_message(self, format: str, *args: Any) -> None:
        """One line per answer: request line and status, and nothing of headers or bodies."""
        # Escaped: a request line may hold what a terminal obeys.
        log(f"{self.client_address[0]} {ascii(format % args)[1:-1]}")


def _told(error: str, image: int | None = None) -> bytes:
    """An error as the protocol tells it."""
    told = {"error": without_secrets(error)} | ({} if image is None else {"image": image})
    return json.dumps(told).encode()


def log(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")
