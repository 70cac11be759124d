"""Servers for the tests of the remote reward: the reference server, and one that says what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrf.rewards import CheckedReward
from hrf.rewards.protocol import decode_request
from hrf.rewards.server import RewardServer

NAME, VERSION = "brightness", "1"


def brightness(images: NDArray[np.float32], prompts: Any = None) -> NDArray[np.float64]:
    return images.astype(np.float64).mean(axis=(1, 2, 3)) + (0 if prompts is None else [len(p) for p in prompts])


@contextlib.contextmanager
def serving(score: Any = brightness, *, needs_prompts: bool = False, **options: Any) -> Iterator[RewardServer]:
    """The reference server around a function, on a free port of the loopback."""
    reward = CheckedReward(name=NAME, score=score, needs_prompts=needs_prompts)
    server = RewardServer(reward, version=VERSION, **options)
    with running(server):
        yield server


@contextlib.contextmanager
def running(server: RewardServer) -> Iterator[None]:
    """The server at work, in a thread."""
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()


@dataclass
class Request:
    """What came in."""

    line: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[socket.socket, Request], None]


@dataclass
class Scripted:
    """A TCP server that reads requests, and answers each with the next reply of its script; the last one for ever."""

    replies: list[Reply]
    requests: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def scripted(*replies: Reply) -> Iterator[Scripted]:
    script = Scripted(list(replies))
    lock = threading.Lock()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline().decode():
                headers = {}
                while (header := self.rfile.readline().decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                request = Request(line.strip(), headers, self.rfile.read(int(headers.get("content-length", 0))))
                with lock:
                    reply = script.replies[min(len(script.requests), len(script.replies) - 1)]
                    script.requests.append(request)
                    script.times.append(time.monotonic())
                try:
                    reply(self.connection, request)
                except OSError:
                    return

    class Server(ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(status: int, body: Any, *headers: str) -> Reply:
    """A reply with a given body: bytes as they are, anything else as JSON (Python's, which knows NaN)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda connection, request: connection.sendall(http(status, content, *headers))


def scores(change: Callable[[dict[str, Any]], Any] = lambda answer: answer) -> Reply:
    """The right answer, or what `change` makes of it."""

    def reply(connection: socket.socket, request: Request) -> None:
        images, prompts = decode_request(request.body)
        answer = {"name": NAME, "version": VERSION, "rewards": brightness(images, prompts).tolist()}
        says(200, change(answer))(connection, request)

    return reply


def cut(num_bytes: int) -> Reply:
    """The right answer's first bytes, and the end of the connection."""

    def reply(connection: socket.socket, request: Request) -> None:
        answer = {"name": NAME, "version": VERSION, "rewards": [0.5] * len(decode_request(request.body)[0])}
        connection.sendall(http(200, json.dumps(answer).encode())[:num_bytes])
        connection.shutdown(socket.SHUT_RDWR)

    return reply


def hang_up(connection: socket.socket, request: Request) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def silence(connection: socket.socket, request: Request) -> None:
    """Nothing, until the client goes."""
    connection.settimeout(20)
    connection.recv(1)


def drip(connection: socket.socket, request: Request) -> None:
    """A byte of the header every 20 ms: no single read ever waits long."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
        connection.sendall(bytes([byte]))
        time.sleep(0.02)
