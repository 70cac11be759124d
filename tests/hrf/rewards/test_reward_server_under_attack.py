"""The reference server as a process of its own, and clients on bare sockets that mean it no good."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from hrf.rewards.protocol import encode_request
from hrf.storage.secrets import REWARD_TOKEN
from tests.e2e.commands import PATIENCE_SECONDS

TOKEN = "tok-3f9a-77c1"
JPEG = "{name: jpeg_compressibility}"
#: The deadlines of the server are constants; in its process here they are as short as a test is patient. And of answers
#: that nobody takes the kernel holds little, where it would hold four megabytes: tens of thousands of them.
PROGRAM = (
    "import sys, socket, hrf.rewards.server as server\n"
    "class Listening(socket.socket):\n"
    "    def listen(self, *backlog):\n"
    "        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)\n"
    "        super().listen(*backlog)\n"
    "socket.socket = Listening\n"
    "server.HEAD_SECONDS = server.BODY_SECONDS = server.LINGER_SECONDS = 1\n"
    "from hrf.rewards.serve import main; sys.exit(main())"
)
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Server:
    process: subprocess.Popen[str]
    address: tuple[str, int]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def ask(self, request: bytes) -> tuple[int, str]:
        """Status and body of the answer to bytes on a connection of their own."""
        with self.connect() as connection:
            connection.sendall(request)
            return answer(connection)

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def answer(connection: socket.socket) -> tuple[int, str]:
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers[b"content-length"])) if b"content-length" in headers else stream.read()
    return status, body.decode()


def await_end(connection: socket.socket) -> bytes:
    """What is still received until the server ends the connection; it is an error if the client has to."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(2**16):
            received += chunk
    return bytes(received)


def dribble(connection: socket.socket, content: bytes) -> None:
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


@contextlib.contextmanager
def process(*arguments: str, token: str = "") -> Iterator[Server]:
    environment = {**os.environ, REWARD_TOKEN: token}
    command = [sys.executable, "-c", PROGRAM, JPEG, "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        # Its log would fill the pipe.
        url = urlsplit(started.stderr.readline().split()[-1])
        reader = threading.Thread(target=started.stderr.read)
        reader.start()
        try:
            yield Server(started, (url.hostname, url.port))
        finally:
            started.terminate()
            reader.join()
    assert started.returncode == 0


@pytest.fixture(scope="module")
def server():
    with process() as started:
        yield started
        # Whatever was done to it.
        assert started.ask(HEALTH)[0] == 200


@pytest.fixture(scope="module")
def guarded():
    with process(token=TOKEN) as started:
        yield started


def score(body: bytes, *headers: str) -> bytes:
    head = ["POST /score HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def with_prompts(prompts: str) -> bytes:
    """A request with one image, and a text where the JSON of its prompts should be."""
    return crafted({"images": {"dtype": "F32", "shape": [1, 3, 1, 1], "data_offsets": [0, 12]}}, bytes(12), prompts)


def crafted(tensors: dict, data: bytes, prompts: str = "null") -> bytes:
    header = json.dumps({**tensors, "__metadata__": {"protocol": "1", "prompts": prompts}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def shaped(*shape: int, dtype: str = "F32") -> bytes:
    size = 4 * int(np.prod(shape, dtype=object))
    size = size if size < 2**28 else 0
    return crafted({"images": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, bytes(size))


class TestToken:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
    def test_it_is_not_taken_in_the_clear_from_other_machines(self, host):
        command = [sys.executable, "-m", "hrf.rewards.serve", JPEG, "--port", "0", "--host", host]
        environment = {**os.environ, REWARD_TOKEN: TOKEN}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert ended.returncode == 3
        assert "--host" in ended.stderr
        assert "--certificate" in ended.stderr
        assert TOKEN not in ended.stderr

    def test_a_short_one_is_refused(self):
        environment = {**os.environ, REWARD_TOKEN: "tok"}
        command = [sys.executable, "-m", "hrf.rewards.serve", JPEG, "--port", "0"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert ended.returncode == 3
        assert REWARD_TOKEN in ended.stderr

    @pytest.mark.parametrize("header", ["Authorization: Bearer tok-3f9a-77c2", "Accept: */*"])
    def test_without_it_the_answer_comes_before_the_body_which_is_not_waited_for(self, guarded, header):
        head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {2**28}\r\n{header}\r\n\r\n".encode()
        with guarded.connect() as connection:
            connection.sendall(head)
            assert answer(connection)[0] == 401
            await_end(connection)

    def test_without_it_nothing_of_a_large_body_is_kept(self, guarded):
        guarded.ask(HEALTH)
        before = guarded.peak_bytes()
        with guarded.connect() as connection:
            connection.sendall(f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {2**28}\r\n\r\n".encode())
            with contextlib.suppress(ConnectionError):
                for _ in range(2**8):
                    connection.sendall(bytes(2**20))
        assert guarded.peak_bytes() - before < 2**25


class TestLength:
    @pytest.mark.parametrize(
        ("length", "status"),
        [("9" * 6000, 400), ("9" * 21, 400), ("9" * 20, 413), ("-1", 400), ("1e3", 400), ("", 400), ("4, 5", 400)],
    )
    def test_every_one_gets_its_answer(self, server, length, status):
        head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        assert server.ask(head.encode())[0] == status

    def test_two_that_differ_are_refused(self, server):
        head = "POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody"
        assert server.ask(head.encode())[0] == 400

    def test_a_head_without_end_is_refused(self, server):
        assert server.ask(b"GET /health HTTP/1.1\r\nX: " + b"x" * 20_000)[0] == 400


class TestBodies:
    def test_a_right_one_is_scored(self, server):
        images = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
        status, told = server.ask(score(encode_request(images, ["one", "two"])))
        assert status == 200
        assert len(json.loads(told)["rewards"]) == 2

    @pytest.mark.parametrize(
        "prompts",
        ["[" * 100_000, '[{"a":' * 50_000, "9" * 5000, '["\\ud800"]', "[[]]", "{}", "", "NaN", '["one", "two"]'],
        ids=["deep lists", "deep objects", "digits", "half a character", "list", "object", "empty", "nan", "too many"],
    )
    def test_absurd_prompts_are_the_requests_fault(self, server, prompts):
        status, told = server.ask(score(with_prompts(prompts)))
        assert status == 400
        assert "prompts" in json.loads(told)["error"]

    @pytest.mark.parametrize(
        "body",
        [
            shaped(0, 3, 2**63, 8),
            shaped(0, 3, 2**62, 2**62),
            shaped(2**32, 3, 2**32, 0),
            shaped(*(64 * [0])),
            shaped(1, 3, 1, 70_000),
            shaped(1, 3, 8193, 1),
            shaped(4097, 3, 1, 1),
            shaped(1, 3, 4, 4, dtype="F16"),
            shaped(1, 3, 4, 4, dtype="F8_E4M3"),
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 100_000) + b"[" * 100_000,
            crafted({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        ],
    )
    def test_absurd_shapes_are_the_requests_fault(self, server, body):
        status, told = server.ask(score(body))
        assert status == 400
        assert len(json.loads(told)["error"]) > 20


class TestDeadlines:
    def test_a_connection_that_says_nothing_ends(self, server):
        with server.connect() as connection:
            await_end(connection)

    @pytest.mark.parametrize("before", [b"", HEALTH], ids=["first request", "second request"])
    def test_a_head_that_comes_byte_by_byte_ends(self, server, before):
        with server.connect() as connection:
            connection.sendall(before)
            if before:
                assert answer(connection)[0] == 200
            with pytest.raises(ConnectionError):
                dribble(connection, b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 300)

    def test_a_body_that_comes_byte_by_byte_is_told_so_and_ends(self, server):
        with server.connect() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                dribble(connection, b"x" * 20)
            assert answer(connection)[0] == 408
            await_end(connection)

    def test_the_rest_of_a_refused_body_cannot_be_dragged_out(self, server):
        with server.connect() as connection:
            connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            with pytest.raises(ConnectionError):
                dribble(connection, b"x" * 300)

    def test_a_client_that_takes_no_answers_is_cut_off(self, server):
        asked = 5_000
        with socket.socket() as connection:
            # The answers are a megabyte; what the kernel holds of them must be less.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            connection.settimeout(60)
            connection.connect(server.address)

            def ask() -> None:
                with contextlib.suppress(OSError):
                    connection.sendall(HEALTH * asked)

            sending = threading.Thread(target=ask)
            sending.start()
            ended = select.poll()
            ended.register(connection, select.POLLRDHUP)
            assert ended.poll(60_000), "the server waits for ever"
            sending.join()
            assert 0 < await_end(connection).count(b"HTTP/1.1 200") < asked
