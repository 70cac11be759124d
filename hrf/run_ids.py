"""The id of a run: its name in object storage."""

from __future__ import annotations

import re

#: Kubeflow's placeholders, such as [[ScheduledTime]].
_MACRO = re.compile(r"\[\[.*?\]\]")


def settle_run_id(run_tag: str, job_id: str) -> str:
    """A run's id, from what it was given and what Kubeflow calls it.

    Kubeflow expands `[[ScheduledTime]]` in the parameters of a scheduled run, but not in every version and mode. Where
    it does not, all runs of a schedule would have the same id; so Kubeflow's id stands in for what was left over.

    Args:
        run_tag: The parameter of that name; may be empty.
        job_id: Kubeflow's id of the run.
    """
    return _MACRO.sub(job_id, run_tag) or job_id


def has_macro(run_tag: str) -> bool:
    """Whether a tag has a placeholder of Kubeflow's in it."""
    return bool(_MACRO.search(run_tag))
