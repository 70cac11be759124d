"""A network in front of an S3 server that goes wrong at chosen requests, as real ones do."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"


class _Server:
    """The server behind the network."""

    def __init__(self, address: tuple[str | None, int | None]) -> None:
        self._address = address

    def ask(self, request: bytes) -> bytes:
        """Send a request; everything that comes back until the server closes the connection."""
        with socket.create_connection(self._address, timeout=30) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(2**16), b""))

    def send(self, part: bytes) -> None:
        """Send a part of a request, and hang up."""
        with socket.create_connection(self._address, timeout=30) as connection:
            connection.sendall(part)


Fault = Callable[[bytes, _Server], bytes]
"""Request and server -> what the client is answered."""


class _HungUp(Exception):  # noqa: N818 - how a fault ends a connection.
    """The connection to the client is to be closed."""


def _refused(_request: bytes, _server: _Server) -> bytes:
    """The connection closes before the request gets through."""
    raise _HungUp


def _half_sent(request: bytes, server: _Server) -> bytes:
    """The request breaks off on its way: the server gets a part of it."""
    server.send(request[: len(request) // 2])
    raise _HungUp


def _unanswered(request: bytes, server: _Server) -> bytes:
    """The server does what it is asked, and its answer is lost."""
    server.ask(request)
    raise _HungUp


def _garbled(request: bytes, server: _Server) -> bytes:
    """The server does what it is asked, and something that is no HTTP comes back."""
    server.ask(request)
    return b"\x16\x03\x01 this is no HTTP\r\n\r\n"


def _cut_in_the_head(request: bytes, server: _Server) -> bytes:
    """The answer breaks off among its headers."""
    answer = server.ask(request)
    return answer[: answer.find(_HEAD_END) // 2]


def _cut_in_the_body(request: bytes, server: _Server) -> bytes:
    """The answer breaks off in its body, whatever its status."""
    answer = server.ask(request)
    body = answer.find(_HEAD_END) + len(_HEAD_END)
    return answer[: (body + len(answer)) // 2] if len(answer) > body else answer[: body // 2]


def _busy(request: bytes, _server: _Server) -> bytes:
    """The server refuses for now: it has too much to do."""
    return _error(request, "503 Slow Down", "SlowDown")


def _failed(request: bytes, server: _Server) -> bytes:
    """The server does what it is asked, and says that it failed."""
    server.ask(request)
    return _error(request, "500 Internal Server Error", "InternalError")


def _failed_and_cut(request: bytes, _server: _Server) -> bytes:
    """The server says that it failed, and even this breaks off."""
    return _error(request, "500 Internal Server Error", "InternalError")[:-20]


FAULTS: tuple[Fault, ...] = (
    _refused,
    _half_sent,
    _unanswered,
    _garbled,
    _cut_in_the_head,
    _cut_in_the_body,
    _busy,
    _failed,
    _failed_and_cut,
)


def _error(request: bytes, status: str, code: str) -> bytes:
    body = b"" if request.startswith(b"HEAD ") else f"<Error><Code>{code}</Code></Error>".encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class FaultyNetwork:
    """A port on this machine that leads to a server, with faults at a share of the requests.

    Attributes:
        endpoint: The address to give to a client instead of the server's.
        faults: How often each fault was done, by name.
        num_requests: How many requests came.
    """

    def __init__(self, server: str, *, seed: int, fraction: float) -> None:
        """Open the port.

        Args:
            server: The server's own endpoint.
            seed: Of the choice of requests and faults.
            fraction: Of the requests that go wrong, in [0, 1].
        """
        address = urlsplit(server)
        self._server, self._fraction = _Server((address.hostname, address.port)), fraction
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.faults: Counter[str] = Counter()
        self.num_requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Answer one request; each is given a connection of its own."""
        with client, contextlib.suppress(OSError):
            request = _receive(client)
            if not request:
                return
            fault, resets = self._choose()
            with contextlib.suppress(_HungUp):
                client.sendall(self._server.ask(request) if fault is None else fault(request, self._server))
            if fault is not None and resets:
                # Closed without a farewell: the client sees a reset instead of an end.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _choose(self) -> tuple[Fault | None, bool]:
        with self._lock:
            self.num_requests += 1
            chosen, fault, resets = self._random.random(), self._random.choice(FAULTS), self._random.random() < 0.5
            if chosen >= self._fraction:
                return None, False
            self.faults[fault.__name__.strip("_").replace("_", " ")] += 1
            return fault, resets


def _receive(client: socket.socket) -> bytes:
    """One whole request that asks for the connection's end after it; nothing if the client has gone."""
    received = b""
    while _HEAD_END not in received:
        if not (data := client.recv(2**16)):
            return b""
        received += data
    head, _, body = received.partition(_HEAD_END)
    if re.search(rb"(?im)^expect: *100-continue", head):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        if not (data := client.recv(2**16)):
            return b""
        body += data
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(expect|connection):", line)]
    return b"\r\n".join([*lines, b"Connection: close"]) + _HEAD_END + body


@contextlib.contextmanager
def faulty_network(server: str, *, seed: int, fraction: float) -> Iterator[FaultyNetwork]:
    """A `FaultyNetwork` for the block."""
    network = FaultyNetwork(server, seed=seed, fraction=fraction)
    try:
        yield network
    finally:
        network.close()
