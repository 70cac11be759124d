"""The id of a run, its name in object storage; and what Kubeflow makes of the parameters of scheduled runs.

Kubeflow expands placeholders such as `[[ScheduledTime]]` in the parameters of a scheduled run, but not in every version
and mode. Where it does not, all runs of a schedule would get the same text. So its id of the run, which is always
another one, stands in for what was left over.
"""

from __future__ import annotations

import re

_MACRO = re.compile(r"\[\[.*?\]\]")


def fill_macros(text: str, job_id: str) -> str:
    """A parameter with Kubeflow's id of the run in the place of each placeholder."""
    return _MACRO.sub(job_id, text)


def settle_run_id(run_tag: str, job_id: str) -> str:
    """A run's id: its tag, or Kubeflow's id where that is empty."""
    return fill_macros(run_tag, job_id) or job_id
