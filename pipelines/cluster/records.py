"""What a run on a cluster left in its bucket, as far as the bucket can be reached from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hrf.errors import ArtifactError, HrfError
from hrf.promotion.records import DecisionRecord, Failure, RunStatus, RunSummary
from hrf.promotion.runs import RunRecords
from hrf.storage.objects import Storage
from hrf.storage.records import read_records
from hrf_pipelines.cluster.runs import default_parameters, last_begin, names_in_bucket, parameters_of


@dataclass(frozen=True, kw_only=True)
class Records:
    """A run's records."""

    where: str
    """The `s3://` address of its folder."""
    summary: RunSummary | None = None
    """`summary.json`; a run has it once it is complete."""
    status: RunStatus | None = None
    """How it ended."""
    failures: list[Failure] = field(default_factory=list)
    """What its failing steps said themselves."""
    decisions: list[DecisionRecord] = field(default_factory=list)
    """What became of its candidates, in order."""
    error: HrfError | None = None
    """Why they could not be read; None if they could."""


def fetch_records(run: Any, spec: Mapping[str, Any] | None = None) -> Records:
    """Read a run's records; its pipeline's defaults hold for parameters that the run does not name.

    Returns:
        What there is. A bucket that can't be read is no error: it often can't be from outside the cluster.
    """
    parameters = {**default_parameters(spec), **parameters_of(run)}
    storage_uri, experiment = str(parameters.get("storage") or ""), str(parameters.get("experiment") or "")
    names = names_in_bucket(run)
    where = f"{storage_uri}/{experiment}/runs/{names[0]}"
    if not storage_uri or not experiment:
        problem = "it has no parameters storage and experiment"
        return Records(
            where="", error=ArtifactError(f"run {run.run_id}", problem=problem, fix="name a run of hrf's pipelines")
        )
    try:
        storage = Storage.open(storage_uri, attempts=1)
        for name in names:
            records = _read(RunRecords(storage=storage, experiment=experiment, run_id=name))
            if records != Records(where=records.where):
                return records
    except HrfError as error:
        return Records(where=where, error=error)
    return Records(where=where)


def read_report(records: Records) -> bytes | None:
    """The report that a finished run left in its bucket; None if there is none.

    Raises:
        StorageError: If the storage fails.
    """
    found = Storage.open(records.where, attempts=1).read_bytes("report.html")
    return None if found is None else found[0]


def end_of(run: Any, records: Records) -> RunStatus | None:
    """What a run's exit step wrote; None where it has not run, or is about an end after which the run was retried."""
    status, began = records.status, last_begin(run)
    return None if status is None or (began and status.time < began.timestamp()) else status


def _read(records: RunRecords) -> Records:
    store = records.storage
    return Records(
        where=store.url(records.prefix),
        decisions=read_records(store, f"{records.experiment}/decisions/{records.run_id}", DecisionRecord),
        summary=records.summary(),
        status=records.status(),
        failures=records.failures(),
    )
