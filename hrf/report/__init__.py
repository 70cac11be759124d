"""HTML reports of a run, of several arms, and of one evaluation; each page is one file without outside requests."""

from hrf.report.compare import compare_table, render_compare
from hrf.report.run import render_run
from hrf.report.step_view import render_evaluation

__all__ = ["compare_table", "render_compare", "render_evaluation", "render_run"]
