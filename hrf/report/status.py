"""A small page about how a run ended, for the view of the exit handler in the Kubeflow UI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from hrf.report.page import render

_TONES = {"SUCCEEDED": "good", "FAILED": "bad"}


def render_status(record: Mapping[str, Any], *, problem: str = "") -> str:
    """A page with a run's state and, for each failed step, what it said and where in the code.

    Args:
        record: `run_id`, `state`, `error`, `kubeflow_run` and `failures`, as in the run's `status.json`.
        problem: Why the record could not be stored; "" if it was.
    """
    failures = [
        {
            "where": f"{failure['step']}" + ("" if failure["epoch"] is None else f", epoch {failure['epoch']}"),
            "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(failure["time"])),
            **{name: failure[name] for name in ("error_type", "message", "traceback")},
        }
        for failure in record["failures"]
    ]
    return render(
        "status.html",
        title=f"Run {record['run_id']}",
        state=record["state"].lower(),
        tone=_TONES.get(record["state"], ""),
        error=record["error"]["message"],
        kubeflow_run=record["kubeflow_run"],
        failures=failures,
        problem=problem,
    )
