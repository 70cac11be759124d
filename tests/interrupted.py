"""Storage whose process dies, or whose network fails, at a chosen request."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from hrf.storage import Storage


class Killed(Exception):  # noqa: N818 - it stands for a signal.
    """The process is gone; nothing in the library catches this."""


def before_request(storage: Storage, number: int, action: Callable[[Any], None]) -> Storage:
    """Call `action` with the n-th request (from 1) that this storage is about to send; returns the storage."""
    count = itertools.count(1)

    def handler(request: Any, **_: object) -> None:
        if next(count) == number:
            action(request)

    storage._client.meta.events.register("before-send.s3", handler)
    return storage


def dying_before(storage: Storage, number: int) -> Storage:
    """Make the storage's process die right before its n-th request."""

    def die(request: Any) -> None:
        raise Killed

    return before_request(storage, number, die)


def losing_the_answer_of(storage: Storage, number: int) -> Storage:
    """Let the n-th request reach the server, and drop the connection before its answer arrives."""

    def lose(request: Any) -> None:
        URLLib3Session(proxies={}).send(request)
        raise ConnectionClosedError(endpoint_url=request.url)

    return before_request(storage, number, lose)
