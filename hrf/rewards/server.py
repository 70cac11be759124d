"""The HTTP server of a remote reward, around any reward of this process: starlette's routes, on uvicorn.

All that can be refused by a request's head (path, token, length, no free place) is refused before its body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hrf.errors import ConfigError, HrfError
from hrf.rewards.base import ImageError, Reward
from hrf.rewards.protocol import PROTOCOL, Health, ProtocolError, Scores, decode_request, is_loopback
from hrf.storage.secrets import REWARD_TOKEN, without_secrets

HEAD_SECONDS = 60
"""How long a connection may take to send the head of a request, or to take an answer."""
BODY_SECONDS = 120
"""How long the body of a request may take."""
LINGER_SECONDS = 5
"""How long the rest of a refused body is read and forgotten: in the midst of sending, a client sees no answer."""

_log = logging.getLogger(__name__)


class RewardServer:
    """Serves one reward; one request is scored at a time, in a thread of its own.

    Args:
        reward: What gives the numbers.
        version: Of the reward; it changes whenever its numbers may.
        address: Host and port; port 0 takes any that is free.
        bounds: The reward's lowest and highest value, None where there is no bound.
        token: What requests must show; empty for none.
        most_waiting: Requests that are received, wait or are scored at a time; more are told to come back.
        max_request_bytes: Largest body.
        tls: Certificate and key; None for plain HTTP.

    Raises:
        ConfigError: If a token would cross the network for all to read.
        OSError: If the address can't be listened on.
    """

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
        if token and tls is None and not is_loopback(address[0]):
            raise ConfigError(
                "--host",
                expected=f"the loopback, or TLS, as {REWARD_TOKEN} is set and would be sent for all to read",
                got=address[0],
                fix=f"give --certificate and --key; or listen on 127.0.0.1, or unset {REWARD_TOKEN}",
            )
        self.reward = reward
        self.health = Health(
            protocol=PROTOCOL,
            name=reward.name,
            version=version,
            range=bounds,
            needs_prompts=reward.needs_prompts,
            needs_token=bool(token),
            max_request_bytes=max_request_bytes,
        )
        self._token = token
        self._free_places = most_waiting
        self._max_request_bytes = max_request_bytes
        self._score_seconds = 1.0
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        host = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        self.url = f"http{'s' if tls else ''}://{host}:{self.address[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application(),
                http=_Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                workers=1,
                # The process's own logging; an address that a header claims is nobody's.
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=HEAD_SECONDS,
                ssl_context_factory=(lambda *_: tls) if tls else None,
            )
        )

    def _application(self) -> Starlette:
        kinds = (HTTPException, ProtocolError, ClientDisconnect, HrfError, Exception)
        application = Starlette(
            routes=[Route("/health", self._tell_health), Route("/score", self._score, methods=["POST"])],
            exception_handlers=dict.fromkeys(kinds, _tell_error),
        )
        application.router.redirect_slashes = False
        return application

    def serve(self) -> None:
        """Serve until `stop` or, in a process's main thread, SIGTERM or Ctrl-C; what was begun is finished."""
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self.close()

    def stop(self) -> None:
        """Have `serve` end, from whatever thread."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give the address back; of a server that is not serving."""
        self._listener.close()
        self._scoring.shutdown()

    @property
    def retry_after_seconds(self) -> int:
        """When a place should be free, judging by how long scoring takes."""
        return min(60, max(1, math.ceil(self._score_seconds)))

    async def _tell_health(self, request: Request) -> Response:
        """`GET /health`: open to probes, though a wrong token is refused here already."""
        if "Authorization" in request.headers:
            self._check_token(request)
        return Response(self.health.encode(), media_type="application/json")

    async def _score(self, request: Request) -> Response:
        """`POST /score`."""
        began = time.monotonic()
        self._check_token(request)
        length = self._checked_length(request)
        with self._place():
            body = await _receive(request)
            scores = await asyncio.get_running_loop().run_in_executor(self._scoring, self._score_body, body)
        _log.info("%d bytes in %.2f s", length, time.monotonic() - began)
        return Response(scores.encode(), media_type="application/json")

    def _score_body(self, body: bytes) -> Scores:
        began = time.monotonic()
        images, prompts = decode_request(body)
        rewards = self.reward(images, prompts).tolist()
        self._score_seconds = time.monotonic() - began
        return Scores(name=self.health.name, version=self.health.version, rewards=rewards)

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise HTTPException(401, "a bearer token is needed, and this is not it")

    def _checked_length(self, request: Request) -> int:
        if "Content-Length" not in request.headers or "Transfer-Encoding" in request.headers:
            raise HTTPException(411, "the request needs a Content-Length")
        length = int(request.headers["Content-Length"])
        if length > self._max_request_bytes:
            raise HTTPException(413, f"a request has at most {self._max_request_bytes} bytes, this one {length}")
        return length

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places, given back before the answer: whoever has it may come again at once."""
        if not self._free_places:
            headers = {"Retry-After": str(self.retry_after_seconds)}
            raise HTTPException(503, "too many requests at a time", headers)
        self._free_places -= 1
        try:
            yield
        finally:
            self._free_places += 1


class _Connection(H11Protocol):
    """A connection with deadlines: uvicorn has one only for the silence between two requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        # Where a client sends its requests all at once, the next one has begun already.
        if self.cycle is answered:
            self._expected.cancel()
            self._expect_request(LINGER_SECONDS if answered.more_body else HEAD_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taken = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expected.cancel()

    def _expect_request(self, seconds: float) -> None:
        self._expected = self.loop.call_later(seconds, self._cut_off, self.cycle)

    def _cut_off(self, answered: RequestResponseCycle | None) -> None:
        """End the connection, unless a request has begun after the one that was answered."""
        if self.cycle is answered:
            self.transport.abort()


async def _receive(request: Request) -> bytes:
    """The body of a request."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"{len(body)} bytes of the request came within {BODY_SECONDS} seconds") from None
    return bytes(body)


async def _tell_error(_request: Request, error: Exception) -> Response:
    """An error as the protocol tells it. What a scorer does unforeseen, starlette hands on to the log as well."""
    said = f"the scorer failed with {type(error).__name__}; the server's log says where"
    status, headers, image = 500, None, {}
    match error:
        case HTTPException(status_code=404 | 405):
            status, said = error.status_code, "there are GET /health and POST /score"
        case HTTPException():
            status, said, headers = error.status_code, error.detail, error.headers
        case ProtocolError() | ClientDisconnect():
            status, said = 400, str(error)
        case ImageError():
            status, said, image = 422, error.problem, {"image": error.image}
        case HrfError():
            status, said = 422, str(error)
    return JSONResponse({"error": without_secrets(said), **image}, status, headers)
