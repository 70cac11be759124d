"""HTML pages of a run, of one evaluation, and of a run's end: one file each, no outside requests."""

from hrf.report.run import render_run
from hrf.report.status import render_status
from hrf.report.step_view import render_evaluation

__all__ = ["render_evaluation", "render_run", "render_status"]
