"""Reports about attempts that ended before any step could report: in an import, by a kill, on a full disk."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrf.errors import HrfError
from hrf.storage.folders import full_disk_error

#: With less than this free, a disk is full: no report, log or state fits any more.
FULL_BYTES = 2**16


def explain(folder: Path, *, log: str, status: int, at_work: Mapping[str, Any] | None) -> dict[str, Any]:
    """A report, as a failing step would have made it.

    `at_work` is the event with which the step began that never ended, if there is one.
    """
    where = {name: (at_work or {"step": ""}).get(name) for name in ("step", "epoch", "replica")}
    if shutil.disk_usage(folder).free < FULL_BYTES:
        full: HrfError | None = full_disk_error(folder, OSError(errno.ENOSPC, ""))
        assert full is not None
        return {**where, "error_type": type(full).__name__, "message": str(full), "exit_code": full.exit_code}
    said = re.findall(r"^\s*(\w*(?:Error|Exception): .*)$", log, re.MULTILINE)
    fix = "see the end of its log"
    if said:
        problem = said[-1]
    elif at_work:
        problem = "the step's process ended without a word, as when it is killed for want of memory"
        fix = f"{fix}; where memory is short, lower model.batch_size and update.microbatch"
    else:
        problem = f"the run's process ended with status {status}, and no step said why"
    return {**where, "error_type": "Unexpected", "message": f"{problem}. Fix: {fix}", "exit_code": 1}
