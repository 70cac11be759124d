"""Report how a run ended, whatever became of it: a record beside the run's others, and a page. Needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hrf.errors import HrfError
from hrf.records import RunError, RunStatus
from hrf.report import render_status
from hrf.run_records import RunRecords
from hrf.steps.context import step
from hrf.storage import Storage


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
    """Gather what a run's steps wrote down of their failures, and store it with the run's end.

    A storage that can't be reached is no error here: it is what the run has failed from, and the page says so.

    Args:
        experiments: Whose steps may have failed, separated by commas; the record is kept with the first.
        run_id: Name of the run in the storage.
        storage: `s3://bucket/prefix`.
        state: `SUCCEEDED`, `FAILED` or `CANCELLED`, as Kubeflow has it.
        error_code: Kubeflow's; 0 for none.
        error_message: Kubeflow's; "" for none.
        kubeflow_run: Kubeflow's name of the run.
        page: Output file: the same for people.

    Returns:
        The number of failures, and the state.
    """
    status = RunStatus(
        run_id=run_id,
        state=state,
        error=RunError(code=error_code or None, message=error_message),
        kubeflow_run=kubeflow_run,
        failures=[],
    )
    problem = ""
    try:
        store = Storage.open(storage)
        own, *others = (
            RunRecords(storage=store, experiment=experiment, run_id=run_id) for experiment in experiments.split(",")
        )
        failures = [failure for records in (own, *others) for failure in records.failures()]
        failures.sort(key=lambda failure: failure.time)
        status = status.model_copy(update={"failures": failures})
        own.write_status(status)
    except HrfError as error:
        problem = str(error)
        sys.stderr.write(f"the run's status could not be stored: {problem}\n")
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text(render_status(status.as_json(), problem=problem), encoding="utf-8")
    return {"failures": len(status.failures), "state": state}
