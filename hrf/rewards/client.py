"""The client of a reward server, on this machine or another, by the protocol of `hrf.rewards.protocol`.

Either all images have their numbers, each from the server and scorer that were asked for, or there is an error.
Requests can be repeated at will, as an image's reward depends on nothing else; so what may pass is tried again: no
connection, a lost one, no answer in time, and the answers 429, 502, 503 and 504. Everything else is final.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import numpy as np
from numpy.typing import NDArray

from hrf.errors import ConfigError, RemoteError
from hrf.rewards.base import ImageError, Prompts
from hrf.rewards.protocol import (
    CONTENT_TYPE,
    Health,
    ProtocolError,
    Scores,
    encode_request,
    is_loopback,
)
from hrf.storage.secrets import REWARD_TOKEN, without_secrets

if TYPE_CHECKING:
    from hrf.rewards.remote import RemoteReward

HEALTH_SECONDS = 60.0
"""How long a server may take to come up, when a step looks for it."""

_PASSING_STATUSES = frozenset({429, 502, 503, 504})
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_MOST_ANSWER_BYTES = 2**20
_JITTER = random.Random()
Answer = TypeVar("Answer")


class _PassingError(Exception):
    """A failure that may pass; with the seconds that the server asks to wait."""

    def __init__(self, problem: str, wait_seconds: float = 0.0) -> None:
        self.problem, self.wait_seconds = problem, wait_seconds
        super().__init__(problem)


@dataclass(frozen=True, kw_only=True)
class RemoteScorer:
    """The client: images in batches to a server, several requests at a time."""

    settings: RemoteReward
    field: str = "reward"
    """Which reward of the configuration this is, for messages."""

    def __post_init__(self) -> None:
        address = urlsplit(self.settings.url)
        if os.environ.get(REWARD_TOKEN) and address.scheme != "https" and not is_loopback(address.hostname):
            raise ConfigError(
                f"{self.field}.url",
                expected=f"https://, as {REWARD_TOKEN} is set and would be sent for all to read",
                got=self.settings.url,
                fix=f"put TLS in front of the server, or unset {REWARD_TOKEN}",
            )

    def __call__(self, images: NDArray[np.float32], prompts: Prompts = None) -> NDArray[np.float64]:
        """Score images [B, 3, H, W] in [0, 1] and their prompts: [B].

        Raises:
            RemoteError: If any image has no number by the deadline, or an answer is not what it has to be.
            ImageError: If the server has something against an image, or its reward is not finite.
        """
        return _run(self._score_all(images, prompts))

    def health(self) -> Health:
        """Ask the server what it is, and check that it is what was asked for.

        Raises:
            RemoteError: If there is none, or another one.
        """
        return _run(self._ask_health())

    async def _ask_health(self) -> Health:
        deadline = time.monotonic() + min(HEALTH_SECONDS, self.settings.deadline_seconds)
        async with self._client() as client:
            attempt = partial(self._exchange, client, "GET", "health", Health.decode)
            health = await self._persist(attempt, deadline)
        self._check_scorer(health.name, health.version)
        if health.needs_token and not os.environ.get(REWARD_TOKEN):
            raise self._error("it asks for a token", f"set {REWARD_TOKEN} where the steps run, to the server's token")
        return health

    async def _score_all(self, images: NDArray[np.float32], prompts: Prompts) -> NDArray[np.float64]:
        deadline = time.monotonic() + self.settings.deadline_seconds
        rewards = np.full(len(images), np.nan)
        firsts = iter(range(0, len(images), self.settings.batch_size))

        async def work(client: httpx2.AsyncClient) -> None:
            for first in firsts:
                part = slice(first, first + self.settings.batch_size)
                body = encode_request(images[part], None if prompts is None else prompts[part])
                attempt = partial(self._exchange, client, "POST", "score", Scores.decode, body, first)
                rewards[part] = self._checked(await self._persist(attempt, deadline), len(images[part]), first)

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.settings.concurrency):
                        group.create_task(work(client))
            except BaseExceptionGroup as failures:
                # The others were cancelled because of the first.
                raise failures.exceptions[0] from failures.exceptions[0].__cause__
        return rewards

    async def _persist(self, attempt: Callable[[], Coroutine[Any, Any, Answer]], deadline: float) -> Answer:
        """Make attempts until one has an answer, waiting longer and longer between them."""
        for repetition in range(self.settings.retries + 1):
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(min(self.settings.timeout_seconds, left)):
                    return await attempt()
            except TimeoutError:
                failure = _PassingError(f"no answer within {min(self.settings.timeout_seconds, left):.3g} s")
            except _PassingError as error:
                failure = error
            # Jitter keeps the requests that failed together from coming back together.
            backoff = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**repetition) * _JITTER.uniform(0.5, 1.0)
            wait = max(backoff, failure.wait_seconds)
            if time.monotonic() + wait >= deadline:
                raise self._error(
                    f"{failure.problem}; the deadline has come after {repetition + 1} attempts",
                    f"look at the server; raise {self.field}.deadline_seconds, or lower {self.field}.batch_size",
                )
            if repetition < self.settings.retries:
                await asyncio.sleep(wait)
        raise self._error(
            f"{failure.problem}; {self.settings.retries + 1} attempts",
            f"look at the server; is {self.field}.url right?",
        )

    async def _exchange(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        decode: Callable[[bytes], Answer],
        body: bytes | None = None,
        first_image: int = 0,
    ) -> Answer:
        """One request and its answer."""
        try:
            async with client.stream(method, f"{self.settings.url.rstrip('/')}/{path}", content=body) as response:
                answer = bytearray()
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > _MOST_ANSWER_BYTES:
                        raise self._error(f"an answer of more than {_MOST_ANSWER_BYTES} bytes", "look at the server")
        except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
            raise self._error(f"no request can be made: {error}", f"correct {self.field}.url") from error
        except httpx2.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self._error(
                    f"its certificate is not trusted: {error}", "set SSL_CERT_FILE to the authority that signed it"
                ) from error
            raise _PassingError(f"{type(error).__name__}: {str(error) or 'the connection was lost'}") from error
        if response.status_code != 200:
            self._refuse(response, bytes(answer), first_image)
        try:
            return decode(bytes(answer))
        except ProtocolError as error:
            raise self._error(
                f"the answer to {method} /{path} is not what the protocol says: {without_secrets(str(error))}",
                "look at the server; is it one of a remote reward?",
            ) from error

    def _refuse(self, response: httpx2.Response, answer: bytes, first_image: int) -> None:
        """Raise what an answer other than 200 means."""
        status = response.status_code
        said, image = _read_error(answer)
        if status in _PASSING_STATUSES:
            raise _PassingError(f"HTTP {status}: {said}", _retry_after(response.headers.get("Retry-After", "")))
        if image is not None and image < self.settings.batch_size:
            raise ImageError(f"{self.settings.url}: {said}", image=first_image + image, fix="look at that image")
        fix = "look at the server's log"
        if status in (401, 403):
            fix = f"set {REWARD_TOKEN} where the steps run, to the server's token"
        elif status == 413:
            fix = f"lower {self.field}.batch_size, or raise the server's largest request"
        elif status in (301, 302, 303, 307, 308, 404, 405):
            fix = f"correct {self.field}.url: requests are not redirected"
        raise self._error(f"HTTP {status}: {said}", fix)

    def _checked(self, scores: Scores, count: int, first_image: int) -> list[float]:
        """The rewards of a batch, if they are what was asked for."""
        self._check_scorer(scores.name, scores.version)
        if len(scores.rewards) != count:
            raise self._error(f"{len(scores.rewards)} rewards for {count} images", "look at the server's log")
        for index, reward in enumerate(scores.rewards):
            if not math.isfinite(reward):
                raise ImageError(
                    f"{self.settings.url}: the reward of an image is {reward}",
                    image=first_image + index,
                    fix="look at that image; mend the scorer",
                )
        return scores.rewards

    def _check_scorer(self, name: str, version: str) -> None:
        for what, expected, got in (
            ("scorer", self.settings.scorer, name),
            ("version", self.settings.version, version),
        ):
            if expected and expected != got:
                raise self._error(
                    f"its {what} is {got!r:.100}, not {expected!r}",
                    f"correct {self.field}.url or {self.field}.{what}",
                )

    def _client(self) -> httpx2.AsyncClient:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": CONTENT_TYPE}
        token = os.environ.get(REWARD_TOKEN)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return httpx2.AsyncClient(
            headers=headers,
            # `asyncio.timeout` is around each request: these would start anew with every byte.
            timeout=None,
            limits=httpx2.Limits(
                max_connections=self.settings.concurrency, max_keepalive_connections=self.settings.concurrency
            ),
            follow_redirects=False,
            # The authorities that SSL_CERT_FILE names, if it is set.
            verify=httpx2.create_ssl_context(),
            # No proxy can reach a server on this machine's own loopback.
            trust_env=not is_loopback(urlsplit(self.settings.url).hostname),
        )

    def _error(self, problem: str, fix: str) -> RemoteError:
        return RemoteError(self.settings.url, problem=problem, fix=fix)


def _read_error(answer: bytes) -> tuple[str, int | None]:
    """What an error answer says, shortened and without secrets, and which image it is about."""
    try:
        values = json.loads(answer)
        said, image = str(values["error"]), values.get("image")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        said, image = answer[:200].decode("utf-8", "replace") or "no reason given", None
    return without_secrets(said)[:500], image if type(image) is int and image >= 0 else None


def _retry_after(value: str) -> float:
    """Seconds that a `Retry-After` asks for: a number of them, or a date (RFC 9110, section 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine from code that is none, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as elsewhere:
        return elsewhere.submit(asyncio.run, work).result()
