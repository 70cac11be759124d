"""A network between a run and its storage that holds back chosen requests, so that races come out as a test wants."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

#: The request that moves the promoted pointer.
SWAP = rb"PUT /\S*/promoted\.json"


class Network:
    """A port on this machine whose connections lead to a server, unchanged but for the requests that are held.

    Attributes:
        endpoint: The address to give to a run instead of the server's.
        arrived: Set as soon as the first request of the held kind is here.
    """

    def __init__(self, server: str, held: bytes) -> None:
        address = urlsplit(server)
        self._server, self._held = (address.hostname, address.port), re.compile(held)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.arrived, self._open = threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Let through what was held, and hold nothing any more."""
        self._open.set()

    def close(self) -> None:
        """Take no more connections."""
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        """Carry bytes both ways until either end closes."""
        with client, socket.create_connection(self._server) as server, contextlib.suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(2**16)
                    if not data:
                        return
                    # A client sends a request after the answer to the one before it, so it begins a chunk.
                    if end is client and self._held.match(data):
                        self.arrived.set()
                        self._open.wait()
                        if _has_hung_up(client):
                            return
                    (server if end is client else client).sendall(data)


def _has_hung_up(client: socket.socket) -> bool:
    """Whether a client has given up on its request; it sends the request again on another connection."""
    return bool(select.select([client], [], [], 0)[0]) and client.recv(1, socket.MSG_PEEK) == b""


@contextlib.contextmanager
def holding(server: str, held: bytes = SWAP) -> Iterator[Network]:
    """A network to a server that holds requests which begin like the pattern `held` until it is told to let go."""
    network = Network(server, held)
    try:
        yield network
    finally:
        network.close()
