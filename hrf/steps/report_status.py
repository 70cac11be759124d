"""Report how a run ended, whatever became of it: a record beside the run's others, and a page. Needs no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hrf.errors import HrfError
from hrf.promotion.records import Failure, Reason, RunError, RunStatus
from hrf.promotion.runs import RunRecords
from hrf.report import render_status
from hrf.steps.context import step
from hrf.steps.own_workflow import is_in_pod, read_own_workflow
from hrf.steps.tracking import track_failure
from hrf.steps.workflow import find_reasons
from hrf.storage.objects import Storage

#: How Kubeflow tells its exit handler that all went well, on a cluster and on this machine. Else it says FAILED, or
#: RUNNING of what was ended from outside, and never why.
FINE = frozenset({"COMPLETE", "SUCCEEDED"})


@step("report_status")
def report_status(
    *,
    experiments: str,
    run_id: str,
    storage: str,
    state: str,
    error_code: int,
    error_message: str,
    kubeflow_run: str,
    page: str,
) -> dict[str, Any]:
    """Find out why a run ended as it did, and store that with what its steps wrote down of their failures.

    A storage that can't be reached is no error here: it is what the run has failed from, and the page says so. Nor is a
    Workflow that can't be read: the record says why it has no reasons.

    Args:
        experiments: Whose steps may have failed, separated by commas; the record is kept with the first.
        run_id: Name of the run in the storage.
        storage: `s3://bucket/prefix`.
        state: `COMPLETE` (here `SUCCEEDED`), `FAILED` or `RUNNING`, as Kubeflow has it.
        error_code: Kubeflow's; 0 for none.
        error_message: Kubeflow's; "" for none.
        kubeflow_run: Kubeflow's name of the run, which is its Workflow's.
        page: Output file: the same for people.

    Returns:
        The number of failures, and the outcome.
    """
    problem = ""
    failures: list[Failure] = []
    records: list[RunRecords] = []
    try:
        store = Storage.open(storage)
        records = [
            RunRecords(storage=store, experiment=experiment, run_id=run_id) for experiment in experiments.split(",")
        ]
        failures = sorted((entry for each in records for entry in each.failures()), key=lambda failure: failure.time)
    except HrfError as error:
        problem = str(error)
    reasons, unread = ([], "") if state in FINE else _find_out(kubeflow_run, failures)
    status = RunStatus(
        run_id=run_id,
        state=state,
        outcome=_outcome(state, reasons),
        time=time.time(),
        error=RunError(code=error_code or None, message=error_message),
        kubeflow_run=kubeflow_run,
        reasons=reasons,
        reasons_unread=unread,
        failures=failures,
    )
    if records:
        try:
            records[0].write_status(status)
        except HrfError as error:
            problem = str(error)
    if problem:
        sys.stderr.write(f"the run's status could not be stored: {problem}\n")
    for line in [reason.line for reason in reasons] or [unread]:
        sys.stderr.write(f"{line}\n" if line else "")
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text(render_status(status, problem=problem), encoding="utf-8")
    if status.outcome != "succeeded":
        track_failure(storage=storage, experiments=experiments, run_id=run_id, why=_why(status))
    return {"failures": len(failures), "outcome": status.outcome}


def _why(status: RunStatus) -> str:
    """Why a run has failed, in one line: what its Workflow says, else the last step that said anything."""
    if status.reasons:
        return status.reasons[-1].line
    if not status.failures:
        return f"no step has said why; Kubeflow calls the run {status.state}"
    last = status.failures[-1]
    where = last.step if last.epoch is None else f"{last.step}, epoch {last.epoch}"
    return f"{where}: {last.message}"


def _find_out(kubeflow_run: str, failures: Sequence[Failure]) -> tuple[list[Reason], str]:
    """The reasons that the run's Workflow gives, and why there are none where it can't be read."""
    if not is_in_pod():
        # On this machine there is no Workflow: all that fails are steps, and they have said why.
        return [], ""
    try:
        workflow, pods = read_own_workflow(kubeflow_run)
        return find_reasons(workflow, pods, failures), ""
    except (HrfError, OSError) as error:
        return [], str(error)


def _outcome(state: str, reasons: Sequence[Reason]) -> Literal["succeeded", "failed", "terminated"]:
    """How the run ended: `succeeded`, `terminated` (by somebody) or `failed`."""
    if state in FINE:
        return "succeeded"
    return "terminated" if any(reason.kind == "terminated" for reason in reasons) else "failed"
