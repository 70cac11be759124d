"""A small page about how a run ended, for the view of the exit handler in the Kubeflow UI."""

from __future__ import annotations

import time

from hrf.promotion.records import RunStatus, place_words
from hrf.report.page import render

_TONES = {"succeeded": "good", "failed": "bad"}


def render_status(status: RunStatus, *, problem: str = "") -> str:
    """A page with a run's end, why that could not be stored, if so, and what each failed step said and where."""
    failures = [
        {
            "where": place_words(failure.step, failure.epoch, failure.replica),
            "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(failure.time)),
            "error_type": failure.error_type,
            "message": failure.message,
            "traceback": failure.traceback,
        }
        for failure in status.failures
    ]
    return render(
        "status.html",
        title=f"Run {status.run_id}",
        status=status,
        tone=_TONES.get(status.outcome, ""),
        failures=failures,
        problem=problem,
    )
