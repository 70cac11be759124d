"""Progress of long work, as JSON lines that a watching process can follow.

A step doesn't know who watches it: the local runner names a file in `HRF_PROGRESS_FILE`; where nobody does, nothing is
written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from hrf.storage.secrets import without_secrets

PROGRESS_FILE = "HRF_PROGRESS_FILE"
_take: Callable[[str, dict[str, object]], None] | None = None
_always: dict[str, object] = {}


def hand_to(take: Callable[[str, dict[str, object]], None]) -> None:
    """Give all events of this process to somebody who knows more, as (event, fields)."""
    global _take
    _take = take


def tell_always(**fields: object) -> None:
    """From now on, have all events of this process say these fields, too, where they are not None; and none before."""
    global _always
    _always = {name: value for name, value in fields.items() if value is not None}


def emit(event: str, **fields: object) -> None:
    """Append one event to the progress file, if there is one, without the values of secret variables.

    Args:
        event: What happened, such as `step-started`, `advanced`, `metrics`, `step-failed`.
        fields: JSON values that belong to it.
    """
    if _take:
        _take(event, fields)
        return
    path = os.environ.get(PROGRESS_FILE)
    if not path:
        return
    told = {name: without_secrets(value) if isinstance(value, str) else value for name, value in fields.items()}
    line = json.dumps({"event": event, "time": time.time(), **_always, **told}) + "\n"
    # One write of one line in append mode: lines of several processes never mix.
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(line)


def advance_reporter(step: str, epoch: int | None, total: int | None) -> Callable[[int], None]:
    """A callback that turns counts of finished evaluations into events: how many of `total` are done."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        emit("advanced", step=step, epoch=epoch, done=done, total=total)

    return report
