"""Storage whose process dies, or whose network fails, at a chosen request."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from hrf.storage.objects import Storage


class Killed(Exception):  # noqa: N818 - it stands for a signal.
    """The process is gone; nothing in the library catches this."""


@contextmanager
def before_request(storage: Storage, number: int, action: Callable[[Any], None]) -> Iterator[None]:
    """Within the block, call `action` with the n-th request (from 1) that this storage is about to send."""
    count = itertools.count(1)

    def act(request: Any) -> None:
        if next(count) == number:
            action(request)

    with before_every_request(storage, act):
        yield


@contextmanager
def before_every_request(storage: Storage, action: Callable[[Any], None]) -> Iterator[None]:
    """Within the block, call `action` with every request that this storage is about to send, in its thread."""

    def handler(request: Any, **_: object) -> None:
        action(request)

    storage._client.meta.events.register("before-send.s3", handler)
    try:
        yield
    finally:
        storage._client.meta.events.unregister("before-send.s3", handler)


def dying_before(storage: Storage, number: int) -> AbstractContextManager[None]:
    """Within the block, make the storage's process die right before its n-th request."""

    def die(request: Any) -> None:
        raise Killed

    return before_request(storage, number, die)


def losing_the_answer_of(storage: Storage, number: int) -> AbstractContextManager[None]:
    """Within the block, let the n-th request reach the server, and drop the connection before its answer arrives."""

    def lose(request: Any) -> None:
        URLLib3Session(proxies={}).send(request)
        raise ConnectionClosedError(endpoint_url=request.url)

    return before_request(storage, number, lose)
