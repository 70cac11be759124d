"""Progress of long work, as JSON lines that a watching process can follow.

A step doesn't know who watches it: the local runner names a file in `HRF_PROGRESS_FILE`; where nobody does, nothing is
written.
"""

from __future__ import annotations

import json
import os
import time

PROGRESS_FILE = "HRF_PROGRESS_FILE"


def emit(event: str, **fields: object) -> None:
    """Append one event to the progress file, if there is one.

    Args:
        event: What happened, such as `step-started`, `advanced`, `metrics`, `step-failed`.
        fields: JSON values that belong to it.
    """
    path = os.environ.get(PROGRESS_FILE)
    if not path:
        return
    line = json.dumps({"event": event, "time": time.time(), **fields}) + "\n"
    # One write of one line in append mode: lines of several processes never mix.
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(line)
