"""Locks on files, which the kernel drops with their holder however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if absent; waits for it."""
    with lock_file(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def lock_file(path: Path) -> IO[str]:
    """Open a file to lock it."""
    return private(path, "a+")


def private(path: Path, mode: str) -> IO[Any]:
    """Open a file that, where it is made, only its owner may read."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))
